# SPDX-License-Identifier: Apache-2.0
"""A tree of arrays in an Orbax directory, read one by one: what DeepMind's and ours share.

Names are the tree's keys joined with `/`. Orbax writes, and restores what goes back to where it
came from (a training run). What is read elsewhere comes through TensorStore, which Orbax stands on:
one array at a time, in the dtype asked for, in a millisecond where Orbax takes 50, and a damaged
array is one error with its name. Where the caller knows the arrays' checksums (checksums.py), what
is read is compared with them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization

from checkpoints import checksums
from checkpoints.processes import together
from checkpoints.source import Damaged, Spec

METADATA = "_METADATA"
AGGREGATE = "checkpoint"  # Orbax of early 2024 wrote the tree's structure here, in msgpack
OCDBT = "manifest.ocdbt"


def is_tree(path: Path) -> bool:
    """Whether a directory looks like one that Orbax wrote for a single tree."""
    return path.is_dir() and any((path / m).is_file() for m in (METADATA, AGGREGATE, OCDBT))


def read_specs(path: Path) -> dict[str, Spec]:
    """Shape and dtype of every array, by name.

    Raises:
      Damaged: the directory is incomplete or damaged.
    """
    keys, driver = _contents(path)
    specs = {}
    for name, key in keys.items():
        array = _open(path, key, driver)
        specs[name] = Spec(tuple(array.shape), array.dtype.name)
    return specs


def read_arrays(
    path: Path,
    specs: Mapping[str, Spec],
    dtype: np.dtype,
    sums: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of `specs` in dtype, the largest first.

    Raises:
      Damaged: an array cannot be read, or has not the checksum in `sums`; the message names it.
    """
    keys, driver = _contents(path)
    for name in sorted(specs, key=lambda name: -math.prod(specs[name].shape)):
        array = _open(path, keys[name], driver)
        try:
            value = (array if sums else ts.cast(array, dtype)).read().result()
        except (ValueError, OSError) as error:
            raise _damaged(path, error, repr(name)) from error
        value = np.asarray(value)
        if sums:
            check_sums(path, {name: checksums.of(value)}, {name: sums[name]})
            value = value.astype(dtype, copy=False)
        yield name, value
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
      ValueError: a name or shape differs from `like`; or, without `rounding`, a dtype that does not
        hold all values of the stored one.
    """
    wanted = checksums.leaves(like)
    stored = together(lambda: _check_like(path, wanted, sums, rounding))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def argument(leaf: Any) -> ocp.ArrayRestoreArgs:
        return ocp.ArrayRestoreArgs(
            restore_type=jax.Array,
            sharding=getattr(leaf, "sharding", None) or device,
            global_shape=leaf.shape,
            strict=True,
        )

    arguments = ocp.args.PyTreeRestore(item=like, restore_args=jax.tree.map(argument, like))

    def restore() -> (
        Any
    ):  # by the handler itself: a Checkpointer would wait for a process that raised
        try:
            return ocp.PyTreeCheckpointHandler().restore(path.absolute(), args=arguments)
        except Exception as error:  # Orbax raises a bare Exception for an array that it cannot read
            raise _damaged(path, error, "an array") from error

    tree = together(restore)
    if sums is not None:
        found = checksums.start(tree)
        together(lambda: check_sums(path, checksums.finish(found), sums))
    if all(stored[name] == np.dtype(leaf.dtype).name for name, leaf in wanted.items()):
        return tree
    arrays, structure = jax.tree.flatten(tree)
    del tree
    for i, leaf in enumerate(jax.tree.leaves(like)):  # one by one: the stored one is let go
        arrays[i] = arrays[i].astype(leaf.dtype)
    return structure.unflatten(arrays)


def _check_like(
    path: Path, wanted: Mapping[str, Any], sums: Mapping[str, int] | None, rounding: bool
) -> dict[str, str]:
    """The dtype stored of each array, if they can be read as the ones wanted."""
    specs = read_specs(path)
    if sums is not None and (lost := sums.keys() ^ specs.keys()):
        raise _damaged(path, ValueError("not in its list of tensors"), repr(min(lost)))
    for name in sorted(wanted.keys() | specs.keys()):
        shape = specs[name].shape if name in specs else "none: it is missing"
        expected = tuple(wanted[name].shape) if name in wanted else "none: it is unknown"
        if shape != expected:
            raise ValueError(
                f"{path}: {name!r} has shape {shape}, expected {expected}; the checkpoint is "
                "another model's, or another optimizer's"
            )
        dtype, kept = np.dtype(wanted[name].dtype), specs[name].dtype
        if not rounding and not _holds(dtype, np.dtype(kept)):
            raise ValueError(
                f"{path}: {name!r} is stored in {kept} and {dtype.name} does not hold all of its "
                f"values; ask for {kept}: an optimizer that was rounded does not go on as it was"
            )
    return {name: spec.dtype for name, spec in specs.items()}


def _holds(dtype: np.dtype, kept: np.dtype) -> bool:
    if dtype == kept:
        return True
    floats = jnp.issubdtype(dtype, jnp.floating) and jnp.issubdtype(kept, jnp.floating)
    return floats and jnp.promote_types(dtype, kept) == dtype


def check_sums(path: Path, found: Mapping[str, int], sums: Mapping[str, int]) -> None:
    """Raises Damaged if a checksum is not the one that was written; it names the array."""
    if wrong := sorted(name for name in sums if found[name] != sums[name]):
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
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path.absolute(), nest(arrays))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The inverse of nest. A leaf is whatever is no mapping."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, child in tree.items():
        flat |= flatten(child, f"{prefix}/{key}" if prefix else str(key))
    return flat


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Name -> key of each array, and how TensorStore opens one, as the directory's age has it.

    Orbax's key is the path through the tree joined with dots, although keys have dots of their own.
    """
    try:
        if not (path / METADATA).is_file() and (path / AGGREGATE).is_file():
            structure = serialization.msgpack_restore((path / AGGREGATE).read_bytes())
            return {n: n.replace("/", ".") for n in flatten(structure)}, {"driver": "zarr"}
        found = json.loads((path / METADATA).read_text(encoding="utf-8"))
        paths = [
            [key["key"] for key in leaf["key_metadata"]]
            for leaf in found["tree_metadata"].values()
            if not leaf["value_metadata"].get("skip_deserialize")  # an empty node of the tree
        ]
        keys = {"/".join(path): ".".join(path) for path in paths}
        driver = {"driver": "zarr3" if found.get("use_zarr3") else "zarr"}
        if found.get("store_array_data_equal_to_fill_value"):
            return keys, driver | {"fill_missing_data_reads": False}
        return keys, driver  # before that, a missing chunk meant zeros
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error, "its list of tensors") from error


def _open(path: Path, key: str, driver: dict[str, Any]) -> ts.TensorStore:
    store: dict[str, Any] = {"driver": "file", "path": f"{path.absolute()}/{key}/"}
    if (path / OCDBT).is_file():
        store = {"driver": "ocdbt", "base": f"file://{path.absolute()}/", "path": f"{key}/"}
    try:
        return ts.open(driver | {"kvstore": store}, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise _damaged(path, error, repr(key)) from error


def _damaged(path: Path, error: Exception, what: str) -> Damaged:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Damaged(
        f"{path}: this Orbax checkpoint is incomplete or damaged: {what} cannot be read "
        f"({first[:300]}); copy it again, or use an earlier one"
    )
