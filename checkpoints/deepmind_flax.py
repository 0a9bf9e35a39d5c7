# SPDX-License-Identifier: Apache-2.0
"""DeepMind's Orbax/Flax checkpoints: the parameter tree, with or without a `params` level above it.

Kaggle's files have no such level, DeepMind's `save_parameters` writes one; both are read, and
either is written. A block's key is literally `blocks.0`. We put a `config.json` of ours inside,
because the format itself says nothing of window, soft cap and embedding scale; Orbax ignores it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import orbax_tree
from checkpoints.model_json import read_model_json, require_deepmind, write_model_json
from checkpoints.open_checkpoint import OpenCheckpoint, write_names
from recurrentgemma.config import GriffinConfig

WRAPPER = "params/"


def open_checkpoint(path: Path) -> OpenCheckpoint:
    """The checkpoint in an Orbax directory.

    Raises:
      ValueError: the directory is incomplete or damaged.
    """
    tensors = orbax_tree.stored_tensors(path)
    prefix = WRAPPER if all(name.startswith(WRAPPER) for name in tensors) else ""

    def read(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in orbax_tree.read_arrays(path, tensors, dtype):
            yield name.removeprefix(prefix), array

    return OpenCheckpoint(
        path,
        "deepmind-flax",
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items()},
        read,
        read_model_json(path / "config.json"),
        folders=(path, path.parent),
    )


def write(
    path: Path, params: dict[str, Any], config: GriffinConfig, *, wrapper: bool = True
) -> None:
    """Write an Orbax directory at `path`, which must not exist; empties `params`.

    Raises:
      ValueError: DeepMind's code cannot hold this config.
    """
    require_deepmind(config)
    prefix = WRAPPER if wrapper else ""
    arrays = {prefix + name: array for name, array in write_names(params, "deepmind-flax")}
    orbax_tree.write_tree(path, arrays)
    write_model_json(path / "config.json", config)
