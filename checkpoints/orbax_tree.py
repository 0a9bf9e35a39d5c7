# SPDX-License-Identifier: Apache-2.0
"""A tree of arrays in an Orbax directory, read piece by piece: what DeepMind's and ours share.

Names are the tree's keys joined with `/`. Reading goes through restore arguments, so an array
comes off the disk in the dtype asked for, and one group of tensors (a block) is read at a time.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from checkpoints.source import Spec

AGGREGATE = "checkpoint"  # Orbax of early 2024 wrote the tree's structure here, in msgpack
MARKS = ("_METADATA", AGGREGATE, "manifest.ocdbt")

logging.getLogger("absl").addFilter(  # said of every checkpoint older than the installed Orbax
    lambda record: "Metadata file does not exist" not in record.getMessage()
)


def is_tree(path: Path) -> bool:
    """Whether a directory looks like one that Orbax wrote for a single tree."""
    return path.is_dir() and any((path / mark).is_file() for mark in MARKS)


def read_specs(path: Path) -> dict[str, Spec]:
    """Shape and dtype of every array, by name; {} where the directory is too old to tell.

    Raises:
      ValueError: the directory is incomplete or damaged.
    """
    if not (path / "_METADATA").is_file() and (path / AGGREGATE).is_file():
        return {}
    leaves = flatten(_metadata(path))
    return {name: Spec(tuple(x.shape), np.dtype(x.dtype).name) for name, x in leaves.items()}


def read_arrays(path: Path, names: list[str], dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """The named arrays in dtype, in the order given, read in groups that share their block.

    Raises:
      ValueError: the directory is incomplete or damaged; the message names the group.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("/".join(name.split("/")[:-2]) or name, []).append(name)
    for group in groups.values():
        tree = nest({name: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype) for name in group})
        arguments = ocp.args.PyTreeRestore(
            item=jax.tree.map(lambda _: 0, tree), restore_args=tree, partial_restore=True
        )
        arrays = flatten(_restore(path, arguments, group[0]))
        while group:
            name = group.pop(0)
            yield name, arrays.pop(name)


def read_whole(path: Path) -> dict[str, np.ndarray]:
    """Every array of an Orbax directory older than its metadata file, as stored.

    Raises:
      ValueError: the directory is incomplete or damaged.
    """
    structure = serialization.msgpack_restore((path / AGGREGATE).read_bytes())
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
    return flatten(_restore(path, ocp.args.PyTreeRestore(restore_args=arguments), AGGREGATE))


def read_like(path: Path, like: Any) -> Any:
    """A whole tree with the structure, dtypes and shardings of `like`, as JAX arrays.

    `like` holds arrays or jax.ShapeDtypeStructs; where it names no sharding, the default device.

    Raises:
      ValueError: the directory is damaged, or a name or shape differs from `like`.
    """
    stored = _leaf_shapes(_metadata(path))
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
    return _restore(path, arguments)


def write_tree(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays by name as one Orbax tree; `path` must not exist.

    They are stored as NumPy arrays whatever they are, so that the checkpoint names no device.
    """
    with ocp.PyTreeCheckpointer() as checkpointer:
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


def damaged(path: Path, error: Exception, what: str = "its metadata") -> ValueError:
    """The error for an Orbax directory of which something cannot be read."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(
        f"{path}: this Orbax checkpoint is incomplete or damaged: {what} cannot be read "
        f"({first[:300]}); copy it again, or use an earlier one"
    )


def _metadata(path: Path) -> Any:
    try:
        return ocp.PyTreeCheckpointHandler().metadata(epath.Path(path.absolute())).tree
    except (OSError, ValueError, KeyError) as error:
        raise damaged(path, error) from error


def _restore(path: Path, arguments: Any, what: str = "a tensor") -> Any:
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), args=arguments)
    except Exception as error:  # Orbax raises a bare Exception for an array that it cannot read
        raise damaged(path, error, what) from error


def _leaf_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves}
