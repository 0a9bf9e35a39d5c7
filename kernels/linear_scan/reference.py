# SPDX-License-Identifier: Apache-2.0
"""The linear scan by its definition, one token after the other, with the gradients that JAX derives
from it: for tests. Computes in float32, or in float64 where the inputs have it."""

import jax
import jax.numpy as jnp


def scan(
    x_BTE: jax.Array, a_BTE: jax.Array, h0_BE: jax.Array, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """See api.linear_scan."""
    dtype = jnp.float64 if x_BTE.dtype == jnp.float64 else jnp.float32

    def step(h_BE, token):
        x_BE, a_BE = token
        h_BE = a_BE.astype(dtype) * h_BE + x_BE.astype(dtype)
        return h_BE, h_BE

    time_major = (jnp.swapaxes(x_BTE, 0, 1), jnp.swapaxes(a_BTE, 0, 1))
    h_last_BE, h_TBE = jax.lax.scan(step, h0_BE.astype(dtype), time_major, reverse=reverse)
    return jnp.swapaxes(h_TBE, 0, 1).astype(x_BTE.dtype), h_last_BE
