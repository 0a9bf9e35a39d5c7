# SPDX-License-Identifier: Apache-2.0
"""DeepMind's PyTorch checkpoints: a state dict in a `.pt` file. The only format that needs torch.

The file is mapped, not read: a tensor is copied out when its turn comes, and the map is closed and
opened again every so often, because its pages count as resident memory until then.
"""

import math
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from checkpoints.model_json import read_model_json, require_deepmind, write_model_json
from checkpoints.open_checkpoint import DTYPES, OpenCheckpoint, StoredTensor, write_names
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import MissingExtra, UserError

TORCH = "torch==2.13.0"  # what the tests run; any 2.x should do
MAPPED_BYTES = 256 << 20


def open_checkpoint(path: Path) -> OpenCheckpoint:
    """The state dict in a `.pt` file, or in the only one of a directory.

    Raises:
      ValueError: the file is truncated, or does not hold tensors by name.
      ImportError: torch is not installed.
    """
    file = path if path.is_file() else only_pt(path)
    state = _load(file)
    tensors = {
        name: StoredTensor(tuple(t.shape), str(t.dtype).split(".")[1]) for name, t in state.items()
    }
    del state

    def read(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        largest_first = sorted(tensors, key=lambda name: -math.prod(tensors[name].shape))
        state, copied = _load(file), 0
        for name in largest_first:
            if copied > MAPPED_BYTES:
                state, copied = None, 0
                state = _load(file)
            array = np.array(_to_numpy(state[name]))
            copied += array.nbytes
            yield name, array
            del array

    config = read_model_json(file.with_suffix(".json"))
    return OpenCheckpoint(path, "deepmind-torch", tensors, read, config, folders=(file.parent,))


def only_pt(directory: Path) -> Path:
    """The `.pt` file of a directory.

    Raises:
      ValueError: there is not exactly one.
    """
    files = sorted(directory.glob("*.pt"))
    if len(files) != 1:
        raise UserError(
            f"{directory}: expected one .pt file, found {[f.name for f in files]}; name the file"
        )
    return files[0]


def write(path: Path, params: dict[str, Any], config: GriffinConfig) -> None:
    """Write a state dict to the file `path`, and our config beside it; empties `params`.

    Raises:
      ValueError: DeepMind's code cannot hold this config.
      ImportError: torch is not installed.
    """
    require_deepmind(config)
    torch = require_torch()
    state = {name: _to_torch(torch, a) for name, a in write_names(params, "deepmind-torch")}
    torch.save(state, path)
    write_model_json(path.with_suffix(".json"), config)


def _load(file: Path) -> dict[str, Any]:
    torch = require_torch()
    if not zipfile.is_zipfile(file):
        raise UserError(
            f"{file}: truncated, or not a .pt file of PyTorch 1.6 or later (a zip archive); copy "
            "it again"
        )
    try:
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{file}: not a readable state dict of tensors ({first})") from error
    if not isinstance(state, dict) or not state:
        raise UserError(f"{file}: expected a state dict, found {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise UserError(
                f"{file}: expected a flat state dict of tensors; {name!r} is "
                f"{type(tensor).__name__}. Save model.state_dict() alone"
            )
    return state


def _to_numpy(tensor: Any) -> np.ndarray:
    """A view of a torch tensor; torch does not know the bfloat16 that JAX gives to NumPy."""
    torch = require_torch()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(DTYPES["bfloat16"])
    return tensor.numpy()


def _to_torch(torch: ModuleType, array: np.ndarray) -> Any:
    array = np.require(array, requirements="W")
    if array.dtype == DTYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def require_torch() -> ModuleType:
    """The torch module.

    Raises:
      MissingExtra: it is not installed; the message says how to.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra(
            "DeepMind's .pt checkpoints need PyTorch, which is not installed: run "
            f"`pip install {TORCH}` (the CPU build is enough), or use the Flax or Hugging Face "
            "form of this checkpoint"
        ) from error
    return torch
