# SPDX-License-Identifier: Apache-2.0
"""Checksums: the same on the host, a device and any mesh; every single change is noticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from checkpoints import checksums
from recurrentgemma.sharding import MeshConfig, make_mesh

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4), (40_000,), (8, 16)]


def random_bits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Any bits, so NaN and subnormal numbers too."""
    itemsize = np.dtype(jnp.dtype(dtype)).itemsize
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * itemsize)
    return np.frombuffer(raw, jnp.dtype(dtype)).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_a_device_and_the_host_agree(shape: tuple[int, ...], dtype: str):
    array = random_bits(shape, dtype)
    expected = checksums.of(array)
    assert int(checksums._on_device(jnp.asarray(array))) == expected
    assert checksums.finish(checksums.start({"a": {"b": jnp.asarray(array)}})) == {"a/b": expected}


def test_booleans_and_wide_elements():
    flags = np.array([True, False, True])
    assert int(checksums._on_device(jnp.asarray(flags))) == checksums.of(flags)
    wide = np.arange(5, dtype=np.float64)
    assert checksums.of(wide) == checksums.of(wide.view(np.uint32))


def test_the_value_is_what_it_was():
    """It stands in checkpoints: a change here makes all of them look damaged."""
    array = np.arange(100_000, dtype=np.float32).reshape(100, 1000)
    assert checksums.of(array) == 3766102114


@pytest.mark.parametrize("spec", [P("fsdp", "tensor"), P(None, "tensor"), P(("data", "fsdp")), P()])
def test_on_a_mesh_without_gathering(spec: P):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    array = random_bits((16, 8), "float32")
    placed = jax.device_put(array, NamedSharding(mesh, spec))
    assert checksums.finish(checksums.start({"x": placed})) == {"x": checksums.of(array)}
    compiled = checksums._on_device.lower(placed).compile().as_text()
    assert compiled is not None
    assert "all-gather" not in compiled


@given(
    size=st.integers(1, 300),
    seed=st.integers(0, 1000),
    at=st.integers(0, 10**6),
    flip=st.integers(1, 2**32 - 1),
)
@settings(max_examples=200)
def test_any_change_of_one_element_is_noticed(size: int, seed: int, at: int, flip: int):
    array = random_bits((size,), "uint32", seed)
    other = array.copy()
    other[at % size] ^= np.uint32(flip)
    assert checksums.of(other) != checksums.of(array)


def test_other_changes_are_noticed():
    array = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    swapped = array.copy()
    swapped[[3, 9]] = swapped[[9, 3]]
    cut_off = array.copy()
    cut_off[32:] = 0
    negated = array.copy()
    negated[:, 5] *= -1  # the highest bit of an even number of elements
    shifted = np.roll(array, 1)
    others = [swapped, cut_off, negated, shifted, np.zeros_like(array), array.T]
    sums = [checksums.of(x) for x in (array, *others)]
    assert len(set(sums)) == len(sums)


def test_an_array_may_be_donated_before_its_checksum_is_finished():
    x = jnp.arange(1 << 16, dtype=jnp.float32)
    expected = checksums.of(np.array(x))
    started = checksums.start({"x": x})
    double = jax.jit(lambda x: x * 2, donate_argnums=0)
    for _ in range(3):
        x = double(x)
    x.block_until_ready()
    assert checksums.finish(started) == {"x": expected}
