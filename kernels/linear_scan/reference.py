# SPDX-License-Identifier: Apache-2.0
"""The linear scan as its definition: a loop over time, for tests only."""

import jax
import jax.numpy as jnp


def scan(
    x_BTE: jax.Array, a_BTE: jax.Array, h0_BE: jax.Array, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """h_t = a_t h_{t-1} + x_t, one token after the other, in float32."""
    time = x_BTE.shape[1]
    h_BE, steps = h0_BE, {}
    for t in reversed(range(time)) if reverse else range(time):
        h_BE = a_BTE[:, t].astype(jnp.float32) * h_BE + x_BTE[:, t].astype(jnp.float32)
        steps[t] = h_BE
    return jnp.stack([steps[t] for t in range(time)], 1), h_BE
