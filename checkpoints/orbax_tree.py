# SPDX-License-Identifier: Apache-2.0
"""A tree of arrays in an Orbax directory, read one by one: what DeepMind's and ours share.

Names are the tree's keys joined with `/`. Orbax writes, and restores what goes back to where it
came from (a training run). What is read elsewhere comes through TensorStore, which Orbax stands on:
one array at a time, in the dtype asked for, in a millisecond where Orbax takes 50, and a damaged
array is one error with its name.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization

from checkpoints.source import Spec

METADATA = "_METADATA"
AGGREGATE = "checkpoint"  # Orbax of early 2024 wrote the tree's structure here, in msgpack
OCDBT = "manifest.ocdbt"


def is_tree(path: Path) -> bool:
    """Whether a directory looks like one that Orbax wrote for a single tree."""
    return path.is_dir() and any((path / m).is_file() for m in (METADATA, AGGREGATE, OCDBT))


def read_specs(path: Path) -> dict[str, Spec]:
    """Shape and dtype of every array, by name.

    Raises:
      ValueError: the directory is incomplete or damaged.
    """
    keys, driver = _contents(path)
    specs = {}
    for name, key in keys.items():
        array = _open(path, key, driver)
        specs[name] = Spec(tuple(array.shape), array.dtype.name)
    return specs


def read_arrays(
    path: Path, specs: Mapping[str, Spec], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of `specs` in dtype, the largest first.

    Raises:
      ValueError: an array cannot be read; the message names it.
    """
    keys, driver = _contents(path)
    for name in sorted(specs, key=lambda name: -math.prod(specs[name].shape)):
        array = _open(path, keys[name], driver)
        try:
            value = ts.cast(array, dtype).read().result()
        except (ValueError, OSError) as error:
            raise _damaged(path, error, repr(name)) from error
        yield name, np.asarray(value)
        del array, value


def read_like(path: Path, like: Any) -> Any:
    """A whole tree with the structure, dtypes and shardings of `like`, as JAX arrays.

    `like` holds arrays or jax.ShapeDtypeStructs; where it names no sharding, the default device.

    Raises:
      ValueError: the directory is damaged, or a name or shape differs from `like`.
    """
    stored = {name: spec.shape for name, spec in read_specs(path).items()}
    wanted = _leaf_shapes(like)
    for name in wanted.keys() | stored.keys():
        if stored.get(name) != wanted.get(name):
            raise ValueError(
                f"{path}: {name!r} has shape {stored.get(name, 'none: it is missing')}, expected "
                f"{wanted.get(name, 'none: it is unknown')}; the checkpoint is another model's, or "
                "another optimizer's"
            )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def argument(leaf: Any) -> ocp.ArrayRestoreArgs:
        return ocp.ArrayRestoreArgs(
            restore_type=jax.Array,
            dtype=leaf.dtype,
            sharding=getattr(leaf, "sharding", None) or device,
            global_shape=leaf.shape,
            strict=True,
        )

    arguments = ocp.args.PyTreeRestore(item=like, restore_args=jax.tree.map(argument, like))
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), args=arguments)
    except Exception as error:  # Orbax raises a bare Exception for an array that it cannot read
        raise _damaged(path, error, "an array") from error


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


def _damaged(path: Path, error: Exception, what: str) -> ValueError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(
        f"{path}: this Orbax checkpoint is incomplete or damaged: {what} cannot be read "
        f"({first[:300]}); copy it again, or use an earlier one"
    )


def _leaf_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves}
