# SPDX-License-Identifier: Apache-2.0
"""Rows of a table against plain indexing, with their gradient."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels.lookup import lookup
from tests.kernels.compare import draw, same, value_and_gradients


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lookup(dtype):
    table, index = draw(0, 9, 4).astype(dtype), jnp.array([[0, 3, 3], [8, 0, 0]])
    got = value_and_gradients(lambda table: lookup(table, index), table)
    want = value_and_gradients(lambda table: table[index], table)
    np.testing.assert_array_equal(got[0], want[0])
    same(got[1], want[1], 2e-6 if dtype == "float32" else 2e-2)
