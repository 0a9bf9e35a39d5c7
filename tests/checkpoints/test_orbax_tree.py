# SPDX-License-Identifier: Apache-2.0
"""One tree on disk: nested for Orbax alone, and its errors told apart."""

import errno
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import checksums, orbax_tree
from checkpoints.open_checkpoint import Damaged

ARRAYS = {"a/b.0/w": np.arange(6.0).reshape(2, 3), "a/b.0/v": np.ones(2), "c": np.zeros(1)}


class Moments(NamedTuple):
    count: Any
    mu: Any


def test_nested():
    """Only dictionaries change, wherever they are; names are the same before and after."""
    tree = {"optimizer": (Moments(np.int32(3), dict(ARRAYS)), ()), "carried": [np.ones(1)]}
    nested = orbax_tree.nested(tree)
    moments = nested["optimizer"][0]
    assert isinstance(moments, Moments)
    assert moments.mu.keys() == {"a", "c"}
    assert moments.mu["a"]["b.0"].keys() == {"w", "v"}
    assert nested["optimizer"][1] == ()
    assert checksums.leaves(nested).keys() == checksums.leaves(tree).keys()


def test_written_and_read(tmp_path: Path):
    orbax_tree.write_tree(tmp_path / "tree", dict(ARRAYS))
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert orbax_tree.is_tree(tmp_path / "tree")
    tensors = orbax_tree.stored_tensors(tmp_path / "tree")
    assert {name: spec.shape for name, spec in tensors.items()} == {
        name: array.shape for name, array in ARRAYS.items()
    }
    stored = dict(orbax_tree.read_arrays(tmp_path / "tree", tensors, None))
    rounded = dict(orbax_tree.read_arrays(tmp_path / "tree", tensors, np.dtype(jnp.bfloat16)))
    like = orbax_tree.read_like(tmp_path / "tree", {n: jnp.asarray(x) for n, x in ARRAYS.items()})
    assert list(like) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert stored[name].dtype == array.dtype
        np.testing.assert_array_equal(stored[name], array)
        np.testing.assert_array_equal(like[name], array)
        assert rounded[name].dtype == jnp.bfloat16


def test_errors(tmp_path: Path):
    tree = tmp_path / "tree"
    orbax_tree.write_tree(tree, dict(ARRAYS))
    with pytest.raises(Damaged, match="tree: this Orbax checkpoint is incomplete or damaged: 'x'"):
        orbax_tree._open(tree, "x", {"driver": "zarr"})
    with pytest.raises(Damaged, match="its list of tensors cannot be read"):
        orbax_tree.stored_tensors(tmp_path / "nothing")
    assert not orbax_tree.is_tree(tmp_path / "nothing")
    metadata = tree / "_METADATA"
    metadata.unlink()
    os.symlink(metadata, metadata)
    for read in (orbax_tree.stored_tensors, orbax_tree.is_tree):
        with pytest.raises(OSError, match="Too many levels of symbolic links") as raised:
            read(tree)
        assert raised.value.errno == errno.ELOOP
