# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 in the layout of its authors: cifar-10-batches-py, five pickled batches and one to test
with, each a dictionary of `data` (uint8 [10000, 3072], channel by channel) and `labels`."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.vision.image_arrays import ImageArrays

FILES = {
    "train": [f"data_batch_{number}" for number in range(1, 6)],
    "test": ["test_batch"],
}
WHENCE = "cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked"
ALLOWED = {  # what its pickles, and those of NumPy's later names, call
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class ArraysAlone(pickle.Unpickler):
    """Reads arrays and plain values; a pickle that would call anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module, name)


def cifar10(folder: str, split: str) -> ImageArrays:
    """A split, 32 x 32 x 3. Raises UserError: a file is missing or is not of that format."""
    if split not in FILES:
        raise UserError(f"split={split!r}: CIFAR-10 has {', '.join(FILES)}")
    batches = [_batch(Path(folder).expanduser() / name) for name in FILES[split]]
    return ImageArrays(
        np.concatenate([pixels_NHWC for pixels_NHWC, _ in batches]),
        np.concatenate([labels_N for _, labels_N in batches]),
        10,
    )


def _batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise UserError(f"there is no {path}: expected {WHENCE}")
    try:
        with path.open("rb") as file:
            batch = ArraysAlone(file, encoding="bytes").load()
        data, labels_N = batch[b"data"], np.asarray(batch[b"labels"], np.int32)
        pixels_NHWC = np.asarray(data).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no batch of CIFAR-10 ({error}): expected {WHENCE}") from None
    if pixels_NHWC.dtype != np.uint8 or labels_N.shape != pixels_NHWC.shape[:1]:
        raise UserError(
            f"{path} is no batch of CIFAR-10: {pixels_NHWC.dtype} pixels of {len(pixels_NHWC):,} "
            f"images and {labels_N.size:,} labels; expected uint8, and as many labels"
        )
    if labels_N.size and not 0 <= labels_N.min() <= labels_N.max() < 10:
        raise UserError(f"{path}: labels up to {labels_N.max()}, expected 0 to 9 (CIFAR-10)")
    return np.ascontiguousarray(pixels_NHWC), labels_N
