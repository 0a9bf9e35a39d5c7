# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as an open file: what it holds, and its tensors one at a time.

Every format's reader gives an OpenCheckpoint, whose names are the file's own. `read_params` turns
it into parameters by canonical name in the dtype asked for, `write_names` does the opposite; both
go through the table in names.py, and neither holds more than one tensor twice.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from checkpoints.names import Format, fill_block, layout, rows_by_name, split_block
from recurrentgemma.config import Dtype, GriffinConfig
from recurrentgemma.errors import UserError

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(jnp.bfloat16),
}


class Damaged(UserError):
    """A checkpoint that is not what was written: truncated, corrupt, or a part is missing."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """What a file says of one tensor before it is read; dtype is NumPy's name of it."""

    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose tensors can be read.

    path is what the user named and stands in every message. read gives each of `tensors` once, by
    its name in the file, as an array that nobody else holds, in the stored dtype or already in
    the one it is given. config is what the checkpoint itself says; None if it says nothing.
    """

    path: Path
    format: Format
    tensors: Mapping[str, StoredTensor]
    read: Callable[[np.dtype], Iterator[tuple[str, np.ndarray]]]
    config: GriffinConfig | None = None
    folders: tuple[Path, ...] = ()  # where its tokenizer may lie, best first

    @property
    def stored_dtype(self) -> Dtype:
        """The narrowest of our dtypes that holds every stored tensor exactly (shapes.check refuses
        those that neither does)."""
        kept = {tensor.dtype for tensor in self.tensors.values()}
        return "bfloat16" if kept == {"bfloat16"} else "float32"


def as_dtype(dtype: str) -> np.dtype:
    """The NumPy dtype of one of our dtype names.

    Raises:
      ValueError: the name is none of them.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r}: expected one of {', '.join(map(repr, DTYPES))}")
    return DTYPES[dtype]


def read_params(checkpoint: OpenCheckpoint, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter by canonical name, as a C-contiguous array of its own in the dtype given.

    The caller has checked the checkpoint against a config (shapes.check). Consume it one by one: a
    tensor is let go before the next is read.
    """
    target = as_dtype(dtype)
    table = rows_by_name(checkpoint.format)
    for name, array in checkpoint.read(target):
        template, block = split_block(name)
        rows = table[template]
        for part, row in enumerate(rows):
            piece = array if len(rows) == 1 else array[part : part + 1]
            value = _own(layout(row, checkpoint.format).read(piece), array, target)
            yield fill_block(row.canonical, block), value


def write_names(params: dict[str, Any], fmt: Format) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a format by its name there; empties `params` as it goes.

    Arrays may be JAX's or NumPy's; what comes out is NumPy's and C-contiguous.
    """
    table = rows_by_name(fmt)
    by_canonical = {row.canonical: rows for rows in table.values() for row in rows}
    while params:
        template, block = split_block(next(iter(params)))
        rows = by_canonical[template]
        parts = []
        for row in rows:
            array = np.asarray(params.pop(fill_block(row.canonical, block)))
            parts.append(layout(row, fmt).write(array))
            del array
        value = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=0)
        yield fill_block(rows[0].name(fmt), block), _contiguous(value, value.dtype)


def _own(view: np.ndarray, whole: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The view as a C-contiguous array of dtype that does not keep a larger `whole` alive."""
    if view.dtype == dtype and view.flags.c_contiguous:
        return view if view.nbytes == whole.nbytes else view.copy()
    return _contiguous(view, dtype)


def _contiguous(view: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """np.ascontiguousarray, but seven times faster where it transposes: a slab fits the cache."""
    if view.ndim != 2 or view.flags.c_contiguous:
        return np.ascontiguousarray(view, dtype)
    out = np.empty(view.shape, dtype)
    for start in range(0, view.shape[1], 64):
        out[:, start : start + 64] = view[:, start : start + 64]
    return out
