# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU: the linear scan with its gates (Griffin paper, section 2.4; resets as in code)."""

import jax
import jax.numpy as jnp

from kernels.dot import spread
from kernels.linear_scan import linear_scan

C = 8.0  # the paper's c: a_t = a^(c r_t)
MAX_SQRT_GRADIENT = 1000.0  # RecurrentGemma paper, section 2


def rg_lru(
    x_BTE: jax.Array,
    input_gate_BTE: jax.Array,
    a_gate_BTE: jax.Array,
    a_param_E: jax.Array,
    h0_BE: jax.Array | None = None,
    *,
    reset_BT: jax.Array | None = None,
    real_BT: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t, with i = sigmoid(input_gate) and
    log a_t = -8 sigmoid(a_gate_t) softplus(a_param).

    Args:
      x_BTE: input, float32 or bfloat16.
      input_gate_BTE: input gate before its sigmoid.
      a_gate_BTE: recurrence gate before its sigmoid.
      a_param_E: decay parameter.
      h0_BE: state before the first token (zero by default), float32.
      reset_BT: True where a document starts: the state is dropped (a = 0) and the multiplier is 1.
      real_BT: False at padding, which leaves the state alone. None: all are real.
      implementation: see linear_scan.

    Returns:
      h_BTE in x's dtype and the last state h_last_BE in float32. Everything between is float32.
      The derivative of the square root is clipped at 1000.
    """
    r_BTE = jax.nn.sigmoid(a_gate_BTE.astype(jnp.float32))
    log_a_BTE = spread(-C * jax.nn.softplus(a_param_E.astype(jnp.float32)), r_BTE) * r_BTE
    a_BTE = jnp.exp(log_a_BTE)
    multiplier_BTE = _sqrt_clipped(-jnp.expm1(2 * log_a_BTE))
    if reset_BT is not None:
        a_BTE = jnp.where(reset_BT[..., None], 0, a_BTE)
        multiplier_BTE = jnp.where(reset_BT[..., None], 1, multiplier_BTE)
    gated_BTE = (
        multiplier_BTE
        * jax.nn.sigmoid(input_gate_BTE.astype(jnp.float32))
        * x_BTE.astype(jnp.float32)
    )
    if real_BT is not None:
        a_BTE = jnp.where(real_BT[..., None], a_BTE, 1)
        gated_BTE = jnp.where(real_BT[..., None], gated_BTE, 0)
    h_BTE, h_last_BE = linear_scan(gated_BTE, a_BTE, h0_BE, implementation=implementation)
    return h_BTE.astype(x_BTE.dtype), h_last_BE


@jax.custom_vjp
def _sqrt_clipped(u: jax.Array) -> jax.Array:
    return jnp.sqrt(u)


def _sqrt_fwd(u: jax.Array):
    return jnp.sqrt(u), u


def _sqrt_bwd(u: jax.Array, gradient: jax.Array):
    floor = 1 / (4 * MAX_SQRT_GRADIENT**2)
    return (gradient * 0.5 * jax.lax.rsqrt(jnp.maximum(u, floor)),)


_sqrt_clipped.defvjp(_sqrt_fwd, _sqrt_bwd)
