# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints: safetensors in one file or in shards, and transformers' config.json.

Departures from what transformers does: its head is tied to the embedding, but some released files
store a copy (`lm_head.weight`); an equal copy is dropped, one that differs is an error. Files are
opened anew every so often, because pages of a memory map count as resident until it is closed.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from checkpoints.huggingface_json import config_from_json, config_to_json, require_huggingface
from checkpoints.model_json import read_json
from checkpoints.names import ROWS
from checkpoints.open_checkpoint import DTYPES, OpenCheckpoint, StoredTensor, write_names
from checkpoints.shapes import file_shapes
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.parameters import param_shapes

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", ROWS[0].huggingface
UNTIED = (
    f"{HEAD!r} differs from {EMBEDDING!r}: this model's head is not tied to its embedding, which "
    "Griffin's always is"
)
MAPPED_BYTES = 256 << 20
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


def open_checkpoint(path: Path) -> OpenCheckpoint:
    """The checkpoint in a directory (one file, or shards with an index) or in one safetensors file.

    Raises:
      ValueError: a file is missing, truncated or disagrees with the index; the config is not one
        of RecurrentGemma; `lm_head.weight` differs from the embedding (the values are compared
        when the tensors are read).
    """
    directory = path if path.is_dir() else path.parent
    tensors: dict[str, StoredTensor] = {}
    files: dict[str, Path] = {}
    for file, expected in _files(path).items():
        stored = _tensors_in(file)
        for name in expected - stored.keys():
            raise UserError(f"{directory / INDEX}: says that {name!r} is in {file.name}; it is not")
        tensors |= stored
        files |= dict.fromkeys(stored, file)
    head = tensors.pop(HEAD, None)
    if head is not None and head != tensors.get(EMBEDDING, head):
        raise UserError(f"{path}: {UNTIED} ({head.shape} and {tensors[EMBEDDING].shape})")

    def read(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        if head is not None:
            _require_tied(path, files, head)
        largest_first = sorted(tensors, key=lambda name: -math.prod(tensors[name].shape))
        handle, opened, copied = None, None, 0
        for name in largest_first:
            if opened != files[name] or copied > MAPPED_BYTES:
                handle, opened, copied = None, files[name], 0
                handle = safe_open(opened, framework="np")
            array = handle.get_tensor(name)  # type: ignore[union-attr]
            copied += array.nbytes
            yield name, array
            del array

    checkpoint = OpenCheckpoint(path, "huggingface", tensors, read, folders=(directory,))
    if not (directory / "config.json").is_file():
        return checkpoint
    config = config_from_json(directory / "config.json", checkpoint.stored_dtype)
    return OpenCheckpoint(path, "huggingface", tensors, read, config, folders=(directory,))


def write(
    path: Path, params: dict[str, Any], config: GriffinConfig, *, shard_bytes: int = 5 * 10**9
) -> None:
    """Write safetensors, config.json and generation_config.json into the directory `path`, which
    must not exist; empties `params`. Above shard_bytes it takes several files and an index.

    Raises:
      ValueError: transformers cannot hold this config.
    """
    require_huggingface(config)
    path.mkdir(parents=True)
    item = DTYPES[config.param_dtype].itemsize
    sizes = {n: item * math.prod(s) for n, s in file_shapes(config, "huggingface").items()}
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {n: f for f, shard in zip(names, shards, strict=True) for n in shard},
        }
        (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name in param_shapes(config):  # the order in which the shards were laid out
        params[name] = params.pop(name)
    tensors = write_names(params, "huggingface")
    for file, shard in zip(names, shards, strict=True):
        batch = dict(next(tensors) for _ in shard)
        assert batch.keys() == set(shard)
        save_file(batch, path / file, metadata={"format": "pt"})
        (path / file).chmod(0o666 & ~_umask())  # it writes files that only their owner can read
    for file, content in config_to_json(config).items():
        (path / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _files(path: Path) -> dict[Path, set[str]]:
    """The safetensors files of a checkpoint, and the tensors that an index promises in each."""
    if path.is_file():
        return {path: set()}
    if (path / INDEX).is_file():
        promised: dict[Path, set[str]] = {}
        for name, file in read_json(path / INDEX).get("weight_map", {}).items():
            promised.setdefault(path / file, set()).add(name)
        if not promised:
            raise UserError(f'{path / INDEX}: expected a "weight_map" from tensor to file')
        for file in promised:
            if not file.is_file():
                raise UserError(f"{file}: missing; {INDEX} names it as a shard. Copy it again")
        return promised
    if (path / WEIGHTS).is_file():
        return {path / WEIGHTS: set()}
    candidates = sorted(path.glob("*.safetensors"))
    if len(candidates) != 1:
        raise UserError(
            f"{path}: expected {WEIGHTS} or {INDEX}, found {[f.name for f in candidates]}; "
            "download the whole checkpoint"
        )
    return {candidates[0]: set()}


def _tensors_in(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="np") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {
                name: StoredTensor(
                    tuple(s.get_shape()), DTYPE_NAMES.get(s.get_dtype(), str(s.get_dtype()))
                )
                for name, s in slices.items()
            }
    except SafetensorError as error:
        raise UserError(
            f"{file}: truncated or not a safetensors file ({error}); copy it again"
        ) from error


def _require_tied(path: Path, files: dict[str, Path], head: StoredTensor) -> None:
    """Compare lm_head with the embedding, some rows at a time."""
    rows, columns = head.shape
    step = max(1, MAPPED_BYTES // (4 * columns))
    for start in range(0, rows, step):
        parts = []
        for name in (HEAD, EMBEDDING):
            with safe_open(files[name], framework="np") as handle:
                parts.append(handle.get_slice(name)[start : min(start + step, rows)])
        if parts[0].tobytes() != parts[1].tobytes():
            raise UserError(f"{path}: {UNTIED}")


def _umask() -> int:
    mask = os.umask(0o022)  # there is no way to read it alone
    os.umask(mask)
    return mask
