# SPDX-License-Identifier: Apache-2.0
"""Products, norm, gating, convolution and lookup against plain JAX, with all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.conv import causal_conv
from kernels.dot import dot, dot_over_rows, dot_transposed, second_first, spread, sum_rows
from kernels.gating import gelu_gate
from kernels.lookup import lookup
from kernels.norm import rms_norm
from tests.kernels.compare import draw, same, value_and_gradients

TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("columns", [6, 7, 600])  # odd and large ones have paths of their own
def test_products(rows, columns, dtype):
    a, b = draw(0, rows, columns).astype(dtype), draw(1, columns, 5)  # b: a float32 parameter
    got = value_and_gradients(dot, a, b)
    want = value_and_gradients(
        lambda a, b: a.astype(jnp.float32) @ b.astype(dtype).astype(jnp.float32), a, b
    )
    assert got[0].dtype == jnp.float32
    assert got[1][1].dtype == jnp.float32
    same(got, want, TOLERANCE[dtype])
    same(value_and_gradients(lambda a, b: dot_transposed(a, b.T), a, b), want, TOLERANCE[dtype])
    turned = jnp.abs(second_first(a, b.T.astype(dtype)) - want[0]).max() if rows > 1 else 0
    assert turned <= TOLERANCE[dtype] * jnp.abs(want[0]).max()
    c = draw(2, rows, 4).astype(dtype)
    same(dot_over_rows(a, c), a.astype(jnp.float32).T @ c.astype(jnp.float32), TOLERANCE[dtype])


def test_sums_over_rows():
    y = draw(0, 2, 3, 5)
    same(sum_rows(y), y.sum((0, 1)), 1e-6)
    got = value_and_gradients(lambda v: spread(v, y) * y, y[0, 0])
    same(got, value_and_gradients(lambda v: v[None, None] * y, y[0, 0]), 1e-6)


def test_norm_and_gating():
    x, g, scale = draw(0, 2, 3, 8), draw(1, 2, 3, 8), draw(2, 8)

    def norm(x, scale):
        mean = jnp.mean(jnp.square(x), -1, keepdims=True)
        return x / jnp.sqrt(mean + 1e-6) * (1 + scale)[None, None]

    same(value_and_gradients(rms_norm, x, scale), value_and_gradients(norm, x, scale), 2e-6)
    want = value_and_gradients(lambda g, x: jax.nn.gelu(g, approximate=True) * x, 3 * g, x)
    same(value_and_gradients(gelu_gate, 3 * g, x), want, 2e-6)


@pytest.mark.parametrize("time", [1, 2, 7])
def test_convolution(time):
    x, past = draw(0, 2, time, 5), draw(1, 2, 3, 5)
    w, b = draw(2, 4, 5), draw(3, 5)
    where = np.stack([10 + np.arange(time), np.arange(time)])
    where[0, time // 2 :] = np.arange(time - time // 2)
    where = jnp.asarray(where)

    def by_definition(x, w, b, past):
        full = jnp.concatenate([past, x], 1)
        rows = []
        for t in range(time):
            out = jnp.broadcast_to(b[None], x[:, 0].shape)
            for s in range(4):
                out += jnp.where(
                    (where[:, t] >= s)[:, None], w[3 - s][None] * full[:, t + 3 - s], 0
                )
            rows.append(out)
        return jnp.stack(rows, 1)

    got = value_and_gradients(
        lambda x, w, b, past: causal_conv(x, w, b, past, where), x, w, b, past
    )
    same(got, value_and_gradients(by_definition, x, w, b, past), 2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lookup(dtype):
    table, index = draw(0, 9, 4).astype(dtype), jnp.array([[0, 3, 3], [8, 0, 0]])
    got = value_and_gradients(lambda table: lookup(table, index), table)
    want = value_and_gradients(lambda table: table[index], table)
    np.testing.assert_array_equal(got[0], want[0])
    same(got[1], want[1], TOLERANCE[dtype])
