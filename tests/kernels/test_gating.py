# SPDX-License-Identifier: Apache-2.0
"""The gate against JAX's GELU, with all gradients."""

import jax

from kernels.gating import gelu_gate
from tests.kernels.compare import draw, same, value_and_gradients


def test_values_and_gradients():
    g, x = 3 * draw(1, 2, 3, 8), draw(0, 2, 3, 8)
    want = value_and_gradients(lambda g, x: jax.nn.gelu(g, approximate=True) * x, g, x)
    same(value_and_gradients(gelu_gate, g, x), want, 2e-6)
