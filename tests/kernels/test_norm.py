# SPDX-License-Identifier: Apache-2.0
"""RMSNorm against plain JAX, with all gradients."""

import jax.numpy as jnp

from kernels.norm import rms_norm
from tests.kernels.compare import draw, same, value_and_gradients


def test_values_and_gradients():
    x, scale = draw(0, 2, 3, 8), draw(2, 8)

    def norm(x, scale):
        mean = jnp.mean(jnp.square(x), -1, keepdims=True)
        return x / jnp.sqrt(mean + 1e-6) * (1 + scale)[None, None]

    same(value_and_gradients(rms_norm, x, scale), value_and_gradients(norm, x, scale), 2e-6)
