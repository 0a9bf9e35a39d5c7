# SPDX-License-Identifier: Apache-2.0
"""Sliding-window attention against its definition: windows, documents, rings, gradients, memory."""

import contextlib
import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.local_attention import local_attention, tpu, write_one, write_ring, xla
from tests.kernels.compare import draw, goes_red, same, truth, value_and_gradients


def interpreted():
    """A context in which splash attention runs on a CPU. (Its batch is a vmap, which the other way
    of interpreting, pltpu.force_tpu_interpret_mode, does not take.)"""
    if jax.default_backend() == "tpu":
        return contextlib.nullcontext()
    return mock.patch.object(tpu, "attention", functools.partial(tpu.attention, interpret=True))


def mixed_positions(time: int, start: int) -> jax.Array:
    """Three rows: one document, packed documents down to one token, and right padding."""
    where = np.tile(start + np.arange(time)[None], (3, 1))
    for first in (3, 4, time // 2):
        where[1, first:] = np.arange(max(time - first, 0))
    where[2, max(time // 2, 1) :] = -1
    return jnp.asarray(where, jnp.int32)


def check(implementation, time, window, *, ring, size=8, dtype=jnp.float32):
    batch, heads, start = 3, 3, 4 if ring else 0
    where = mixed_positions(time, start)
    arrays = [draw(0, batch, time, heads, size), draw(1, batch, time, size)]
    arrays += [draw(2, batch, time, size)]
    if ring:
        arrays += [draw(3, batch, window, size), draw(4, batch, window, size)]
    arrays = [x.astype(dtype) for x in arrays]
    start_B = jnp.full((batch,), start, jnp.int32)

    def run(name):
        def function(*arrays):
            out = local_attention(
                *arrays,
                window=window,
                positions_BT=where,
                start_position_B=start_B,
                implementation=name,
            )
            return jnp.where((where >= 0)[..., None, None], out, 0)

        return function

    with interpreted():
        got = value_and_gradients(run(implementation), *arrays)
    same(got, truth(run("reference"), *arrays), 2e-5 if dtype == jnp.float32 else 3e-2)


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize(
    ("time", "window", "block"),
    [(1, 6, 4), (29, 6, 4), pytest.param(16, 16, 4, marks=pytest.mark.slow), (12, 3, 256)],
)
def test_blocks_of_queries(time, window, block, ring, monkeypatch):
    monkeypatch.setattr(xla, "BLOCK", block)
    check("xla", time, window, ring=ring)


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize(
    ("time", "window", "size"),
    [(1, 6, 64), pytest.param(29, 6, 128, marks=pytest.mark.slow), (140, 70, 64)],
)
def test_splash_attention(time, window, size, ring):
    check("tpu", time, window, ring=ring, size=size)


@pytest.mark.parametrize("implementation", ["xla", "tpu"])
def test_bfloat16(implementation):
    check(implementation, 40, 20, ring=True, size=64, dtype=jnp.bfloat16)


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize("implementation", ["xla", "tpu"])
@pytest.mark.parametrize("ring", [False, True])
def test_it_goes_red_when_documents_or_the_past_are_not_kept_apart(
    implementation, ring, monkeypatch
):
    """One key too many at the window's edge, or documents ignored."""
    module = {"xla": xla, "tpu": tpu}[implementation]
    right = module.attention

    def wider(*args, window, **options):
        return right(*args, window=window + (args[3] is None), **options)

    def one_document(q, k, v, past_k, past_v, positions, start, **options):
        positions = jnp.where(positions < 0, positions, 10**6)
        return right(q, k, v, past_k, past_v, positions, start, **options)

    monkeypatch.setattr(module, "attention", one_document if ring else wider)
    goes_red(check, implementation, 29, 6, ring=ring, size=64)


def test_the_window_is_w_keys_and_the_query():
    time, window = 12, 4
    v = jnp.eye(time)[None]
    q = jnp.zeros((1, time, 1, time))  # equal weights: the output shows which keys are seen
    out = local_attention(q, v, v, window=window, positions_BT=jnp.arange(time)[None])
    seen = np.asarray(out[0, :, 0] > 0)
    distance = np.arange(time)[:, None] - np.arange(time)[None]
    np.testing.assert_array_equal(seen, (distance >= 0) & (distance <= window))


@pytest.mark.parametrize("given", [False, True])
def test_writing_one_by_one_equals_writing_a_chunk(given):
    window, new = 4, draw(0, 2, 11, 3)
    zero = jnp.zeros((2,), jnp.int32)
    ring = jnp.zeros((2, window, 3))
    for t in range(11):
        ring = write_one(
            ring,
            new[:, t : t + 1],
            position_B1=jnp.full((2, 1), t, jnp.int32),
            real_B1=jnp.ones((2, 1), bool) if given else None,
            may_reset=given,
        )
    whole = write_ring(
        None, new, window, start_position_B=zero, end_B=zero + 11, next_position_B=zero + 11
    )
    np.testing.assert_array_equal(ring, whole)


def test_no_square_of_time_in_the_compiled_program():
    """T = 16,384 and W = 128: no array has T x T elements, and memory grows with T."""

    def temporary(time: int) -> int:
        q = jax.ShapeDtypeStruct((1, time, 2, 16), jnp.float32)
        k = jax.ShapeDtypeStruct((1, time, 16), jnp.float32)

        def loss(q, k, v):
            where = jnp.arange(time)[None]
            return local_attention(q, k, v, window=128, positions_BT=where).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporary(16_384) < 16_384 * 16_384  # bytes: a quarter of one T x T array
    assert temporary(16_384) < 6 * temporary(4_096)


def test_it_refuses():
    q, k = jnp.zeros((1, 3, 2, 8)), jnp.zeros((1, 3, 8))
    where = jnp.zeros((1, 3), jnp.int32)
    with pytest.raises(ValueError, match=r"expected k and v of shape \(1, 3, 8\)"):
        local_attention(q, k[:, :2], k, window=4, positions_BT=where)
    ring = jnp.zeros((1, 4, 8))
    for past in ((ring,), (ring, ring), (None, ring)):
        with pytest.raises(ValueError, match="what comes before the chunk has the shapes"):
            local_attention(q, k, k, *past, window=4, positions_BT=where)
    for window in (0, -1, 2.5):
        with pytest.raises(ValueError, match="expected a whole number, at least 1"):
            local_attention(q, k, k, window=window, positions_BT=where)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"positions have shape \(1, 1\); expected \(1, 3\)"):
        local_attention(q, k, k, window=4, positions_BT=where[:, :1])
    with pytest.raises(ValueError, match=r"expected \[B, T, H, K\] of at least one of each"):
        local_attention(q[0], k, k, window=4, positions_BT=where)
    with pytest.raises(ValueError, match="k is int32; expected floating"):
        local_attention(q, k.astype(jnp.int32), k, window=4, positions_BT=where)
    options: dict[str, Any]
    for options in (
        {"axis": "sequence"},  # whatever the implementation, and outside of a mesh too
        {"ring_k_BWK": ring, "ring_v_BWK": ring, "start_position_B": jnp.zeros(1, jnp.int32)},
    ):
        for implementation in (None, "xla", "gpu"):
            options["implementation"] = implementation
            with pytest.raises(ValueError, match=r"one_document says .* or an axis that tokens"):
                local_attention(q, k, k, window=4, positions_BT=where, one_document=True, **options)
    with pytest.raises(ValueError, match="implementation 'flash' is unknown"):
        local_attention(q, k, k, window=4, positions_BT=where, implementation="flash")
