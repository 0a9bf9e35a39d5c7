# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU by its definition, one token after the other, with the gradients that JAX derives from
it: for tests. Computes in float32, or in float64 where the inputs have it."""

import jax
import jax.numpy as jnp

from kernels.rg_lru.gates import MAX_SQRT_GRADIENT, C


@jax.custom_jvp
def clipped_sqrt(x: jax.Array) -> jax.Array:
    """The square root, whose derivative is at most MAX_SQRT_GRADIENT."""
    return jnp.sqrt(x)


@clipped_sqrt.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    floor = 1 / (4 * MAX_SQRT_GRADIENT**2)
    return jnp.sqrt(x), dx / jnp.sqrt(4 * jnp.maximum(x, floor))


def forward(
    x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT
) -> tuple[jax.Array, jax.Array]:
    """See api.rg_lru."""
    dtype = jnp.float64 if x_BTE.dtype == jnp.float64 else jnp.float32
    log_a_E = -C * jax.nn.softplus(a_param_E.astype(dtype))
    if real_BT is None:
        real_BT = jnp.ones_like(reset_BT)

    def step(h_BE, token):
        *streams, reset_B, real_B = token
        x_BE, input_gate_BE, a_gate_BE = (jnp.where(real_B[:, None], v, 0) for v in streams)
        log_a_BE = log_a_E[None] * jax.nn.sigmoid(a_gate_BE.astype(dtype))
        reset_B1 = reset_B[:, None]
        a_BE = jnp.where(reset_B1, 0, jnp.exp(log_a_BE))
        multiplier_BE = jnp.where(reset_B1, 1, clipped_sqrt(-jnp.expm1(2 * log_a_BE)))
        gated_BE = jax.nn.sigmoid(input_gate_BE.astype(dtype)) * x_BE.astype(dtype)
        h_BE = jnp.where(real_B[:, None], a_BE * h_BE + multiplier_BE * gated_BE, h_BE)
        return h_BE, h_BE

    tokens = (x_BTE, input_gate_BTE, a_gate_BTE, reset_BT, real_BT)
    time_major = jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), tokens)
    h_last_BE, h_TBE = jax.lax.scan(step, h0_BE.astype(dtype), time_major)
    return jnp.swapaxes(h_TBE, 0, 1).astype(x_BTE.dtype), h_last_BE
