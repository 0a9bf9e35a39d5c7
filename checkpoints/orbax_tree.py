# SPDX-License-Identifier: Apache-2.0
"""A tree of arrays in an Orbax directory, read one by one: what DeepMind's and ours share.

Names are the tree's keys joined with `/`: a flat dictionary by such names and a nested one are the
same tree here, and only what Orbax is given is nested. Orbax writes. What is read comes through
TensorStore, which Orbax stands on: an array in a millisecond where Orbax takes 50, no barrier that
a process waits in for one that has failed, and a damaged array is one error with its name. Where
the caller knows the arrays' checksums (checksums.py), what is read is compared with them.
"""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from checkpoints import checksums, files
from checkpoints.open_checkpoint import Damaged, StoredTensor
from checkpoints.plain_path import plain
from checkpoints.processes import all_or_none
from recurrentgemma.errors import UserError

READ_AHEAD = 1 << 30  # bytes of arrays that are read at a time
METADATA = "_METADATA"
AGGREGATE = "checkpoint"  # Orbax of early 2024 wrote the tree's structure here, in msgpack
OCDBT = "manifest.ocdbt"
MARKS = (METADATA, AGGREGATE, OCDBT)  # a tree has one of these files
OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in TensorStore's messages


def is_tree(path: Path) -> bool:
    """Whether a directory looks like one that Orbax wrote for a single tree."""
    return any(files.is_file(path / name) for name in MARKS)


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Shape and dtype of every array, by name.

    Raises:
      Damaged: the directory is incomplete or damaged.
      OSError: a file cannot be opened or read, whatever is in it.
    """
    keys, driver = _contents(path)
    tensors = {}
    for name, key in keys.items():
        array = _open(path, key, driver)
        tensors[name] = StoredTensor(tuple(array.shape), array.dtype.name)
    return tensors


def read_arrays(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    dtype: np.dtype | None,
    sums: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of `tensors` in dtype (None: as stored), the largest first.

    Raises:
      Damaged: an array is not whole, or has not the checksum in `sums`; the message names it.
      OSError: a file cannot be opened or read.
    """
    keys, driver = _contents(path)
    for name in sorted(tensors, key=lambda name: -math.prod(tensors[name].shape)):
        array = _open(path, keys[name], driver)
        with _errors_of(path, repr(name)):
            cast = array if sums or dtype is None else ts.cast(array, dtype)
            value = np.asarray(cast.read().result())
        if sums:
            check_sums(path, {name: checksums.of(value)}, {name: sums[name]})
        yield name, value if dtype is None else value.astype(dtype, copy=False)
        del array, value


def read_like(
    path: Path, like: Any, *, sums: Mapping[str, int] | None = None, rounding: bool = True
) -> Any:
    """A whole tree with the structure, dtypes and shardings of `like`, as JAX arrays.

    `like` holds arrays or jax.ShapeDtypeStructs; where it names no sharding, the default device. A
    process reads what its devices hold. Where a dtype differs, the stored one is rounded once it is
    on the devices. All processes call it alike, and it raises on all or none.

    Raises:
      Damaged: the directory is damaged, or an array has not the checksum in `sums`.
      OSError: a file cannot be opened or read.
      UserError: a name or shape differs from `like`; or, without `rounding`, a dtype that does not
        hold all values of the stored one.
    """
    wanted = checksums.leaves(like)
    stored = all_or_none(lambda: _check_like(path, wanted, sums, rounding))
    arrays = all_or_none(lambda: _read_all(path, wanted))
    if sums is not None:
        started = checksums.start(arrays)
        all_or_none(lambda: check_sums(path, checksums.finish(started), sums))
    for name, leaf in wanted.items():
        if stored[name] != np.dtype(leaf.dtype).name:
            arrays[name] = arrays[name].astype(leaf.dtype)  # one by one: the stored one is let go
    return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))


def _read_all(path: Path, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The arrays in their stored dtypes, each on the devices that its sharding names."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    keys, driver = _contents(path)
    arrays: dict[str, jax.Array] = {}
    started: dict[str, Callable[[], jax.Array]] = {}
    names, size = list(wanted), 0
    for name in names:
        leaf = wanted[name]
        sharding = getattr(leaf, "sharding", None) or device
        started[name] = _start_read(_open(path, keys[name], driver), sharding)
        size += math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        if size > READ_AHEAD or name == names[-1]:
            for started_name, finish in started.items():
                with _errors_of(path, repr(started_name)):
                    arrays[started_name] = finish()
            size = 0
            started.clear()
    return arrays


def _start_read(store: ts.TensorStore, sharding: jax.sharding.Sharding) -> Callable[[], jax.Array]:
    """Begin to read what this process's devices hold of an array; returns how to get it.

    In one piece, where that is no more than their parts: parts of one chunk would read it each.
    """
    shape = tuple(store.shape)
    boxes = {
        device: tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        for device, index in sharding.addressable_devices_indices_map(shape).items()
        if index is not None
    }
    distinct = set(boxes.values())
    axes = list(zip(*distinct, strict=True))
    hull = tuple((min(a for a, _ in ends), max(b for _, b in ends)) for ends in axes)
    whole = _volume(hull) <= sum(map(_volume, distinct))
    reads = {
        box: store[tuple(slice(*ends) for ends in box)].read()
        for box in ({hull} if whole else distinct)
    }

    def finish() -> jax.Array:
        read = {box: np.asarray(future.result()) for box, future in reads.items()}
        parts = []
        for device, box in boxes.items():
            frame = hull if whole else box
            inside = zip(box, frame, strict=True)
            part = read[frame][tuple(slice(a - start, b - start) for (a, b), (start, _) in inside)]
            parts.append(jax.device_put(part, device))
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    return finish


def _volume(box: tuple[tuple[int, int], ...]) -> int:
    return math.prod(b - a for a, b in box)


def _check_like(
    path: Path, wanted: Mapping[str, Any], sums: Mapping[str, int] | None, rounding: bool
) -> dict[str, str]:
    """The dtype stored of each array, if they can be read as the ones wanted."""
    tensors = stored_tensors(path)
    if sums is not None and (lost := sums.keys() ^ tensors.keys()):
        raise damaged(path, "not in its list of tensors", repr(min(lost)))
    for name in sorted(wanted.keys() | tensors.keys()):
        shape = tensors[name].shape if name in tensors else "none: it is missing"
        expected = tuple(wanted[name].shape) if name in wanted else "none: it is unknown"
        if shape != expected:
            raise UserError(
                f"{path}: {name!r} has shape {shape}, expected {expected}; the checkpoint is "
                "another model's, or another optimizer's"
            )
        dtype, kept = np.dtype(wanted[name].dtype), tensors[name].dtype
        if not rounding and not _holds(dtype, np.dtype(kept)):
            raise UserError(
                f"{path}: {name!r} is stored in {kept} and {dtype.name} does not hold all of its "
                f"values; ask for {kept}: an optimizer that was rounded does not go on as it was"
            )
    return {name: tensor.dtype for name, tensor in tensors.items()}


def _holds(dtype: np.dtype, kept: np.dtype) -> bool:
    if dtype == kept:
        return True
    if not (jnp.issubdtype(dtype, jnp.floating) and jnp.issubdtype(kept, jnp.floating)):
        return False
    wide, narrow = jnp.finfo(dtype), jnp.finfo(kept)
    return wide.nmant >= narrow.nmant and wide.maxexp >= narrow.maxexp


def check_sums(path: Path, actual: Mapping[str, int], sums: Mapping[str, int]) -> None:
    """Raises Damaged if a checksum is not the one that was written; it names the array."""
    if wrong := sorted(name for name in sums if actual[name] != sums[name]):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise Damaged(
            f"{path}: this checkpoint is damaged: {wrong[0]!r}{more} holds other values than were "
            "saved (its checksum differs); copy it again, or use an earlier one"
        )


def write_tree(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays by name as one Orbax tree; `path` must not exist.

    Give it NumPy arrays, so that the checkpoint names no device. Orbax buffers all that it writes;
    without compression, which saves little on weights, that is one more copy and not two.
    """
    handler = ocp.PyTreeCheckpointHandler(use_compression=False)
    unfinished = plain(path.parent) / f".tree.{os.getpid()}"  # `path` may have any name
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(unfinished, nested(arrays))
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def nested(tree: Any) -> Any:
    """The tree as Orbax stores it: {"a/b": x} in it becomes {"a": {"b": x}}."""

    def node(x: Any) -> Any:
        if not isinstance(x, dict):
            return x
        return unflatten_dict({name: nested(child) for name, child in x.items()}, sep="/")

    return jax.tree.map(node, tree, is_leaf=lambda x: isinstance(x, dict))


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Name -> key of each array, and how TensorStore opens one, as the directory's age has it.

    Orbax's key is the path through the tree joined with dots, although keys have dots of their own.
    """
    with _errors_of(path, "its list of tensors"):
        if not files.is_file(path / METADATA) and files.is_file(path / AGGREGATE):
            structure = serialization.msgpack_restore((path / AGGREGATE).read_bytes())
            return {n: n.replace("/", ".") for n in flatten_dict(structure, sep="/")}, {
                "driver": "zarr"
            }
        metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
        paths = [
            [key["key"] for key in leaf["key_metadata"]]
            for leaf in metadata["tree_metadata"].values()
            if not leaf["value_metadata"].get("skip_deserialize")  # an empty node of the tree
        ]
        keys = {"/".join(path): ".".join(path) for path in paths}
        driver = {"driver": "zarr3" if metadata.get("use_zarr3") else "zarr"}
        if metadata.get("store_array_data_equal_to_fill_value"):
            return keys, driver | {"fill_missing_data_reads": False}
        return keys, driver  # before that, a missing chunk meant zeros


def _open(path: Path, key: str, driver: dict[str, Any]) -> ts.TensorStore:
    folder = plain(path)
    store: dict[str, Any] = {"driver": "file", "path": f"{folder}/{key}/"}
    if files.is_file(path / OCDBT):
        base = {"driver": "file", "path": f"{folder}/"}
        store = {"driver": "ocdbt", "base": base, "path": f"{key}/"}
    with _errors_of(path, repr(key)):
        return ts.open(driver | {"kvstore": store}, open=True, read=True).result()


@contextlib.contextmanager
def _errors_of(path: Path, what: str) -> Iterator[None]:
    """Wrong or missing content is Damaged; a file that cannot be opened or read is an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in files.MISSING:
            raise
        raise damaged(path, str(error), what) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = str(error).replace(str(plain(path)), str(path.absolute()))
        code = OS_ERROR.search(message)
        if code and int(code[1]) not in files.MISSING:
            raise OSError(int(code[1]), os.strerror(int(code[1])), f"{path} ({what})") from error
        raise damaged(path, message or type(error).__name__, what) from error


def damaged(path: Path, why: str, what: str) -> Damaged:
    first = why.strip().splitlines()[0]
    return Damaged(
        f"{path}: this Orbax checkpoint is incomplete or damaged: {what} cannot be read "
        f"({first[:300]}); copy it again, or use an earlier one"
    )
