# SPDX-License-Identifier: Apache-2.0
"""Products and sums over rows against plain JAX, with all gradients."""

import jax.numpy as jnp
import pytest

from kernels.dot import dot, dot_over_rows, dot_transposed, second_first, spread, sum_rows
from tests.kernels.compare import draw, same, value_and_gradients

pytestmark = pytest.mark.usefixtures("compiled_for_users")

TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("rows", "columns"),  # odd and large ones have paths of their own
    [
        *((1, 6), (2, 7), (9, 600)),
        *(
            pytest.param(rows, columns, marks=pytest.mark.slow)
            for rows, columns in ((1, 7), (1, 600), (2, 6), (2, 600), (9, 6), (9, 7))
        ),
    ],
)
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
