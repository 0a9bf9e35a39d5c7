# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU: the linear scan with its gates (Griffin paper, section 2.4; resets as in code)."""

import functools

import jax
import jax.numpy as jnp

from kernels.dot import sum_rows
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
      h_BTE in x's dtype and the last state h_last_BE in float32. Everything between is float32;
      the backward pass keeps the inputs and h_BTE and recomputes the rest. The derivative of the
      square root is clipped at 1000.

    Raises:
      ValueError: shapes disagree, or the implementation is unknown.
    """
    batch, time, width = x_BTE.shape
    if input_gate_BTE.shape != x_BTE.shape or a_gate_BTE.shape != x_BTE.shape:
        raise ValueError(
            f"rg_lru: x has shape {x_BTE.shape}, its gates {input_gate_BTE.shape} and "
            f"{a_gate_BTE.shape}; expected one shape"
        )
    if h0_BE is None:
        h0_BE = jnp.zeros((batch, width), jnp.float32)
    if reset_BT is None:
        reset_BT = jnp.zeros((batch, time), bool)
    gates = (x_BTE, input_gate_BTE, a_gate_BTE, a_param_E)
    return _rg_lru(*gates, h0_BE.astype(jnp.float32), reset_BT, real_BT, implementation)


def _gates(x_BTE, input_gate_BTE, a_gate_BTE, a_param_E):
    """(x, i, r, c softplus, log a, a), all float32."""
    i_BTE = jax.nn.sigmoid(input_gate_BTE.astype(jnp.float32))
    r_BTE = jax.nn.sigmoid(a_gate_BTE.astype(jnp.float32))
    decay_E = -C * jax.nn.softplus(a_param_E.astype(jnp.float32))
    log_a_BTE = decay_E[None, None] * r_BTE
    return x_BTE.astype(jnp.float32), i_BTE, r_BTE, decay_E, log_a_BTE, jnp.exp(log_a_BTE)


def _scan_decay(a_BTE, reset_BT, real_BT):
    a_BTE = jnp.where(reset_BT[..., None], 0, a_BTE)
    return a_BTE if real_BT is None else jnp.where(real_BT[..., None], a_BTE, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _rg_lru(
    x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT, implementation
) -> tuple[jax.Array, jax.Array]:
    x, i, _, _, log_a, a = _gates(x_BTE, input_gate_BTE, a_gate_BTE, a_param_E)
    multiplier = jnp.where(reset_BT[..., None], 1, jnp.sqrt(-jnp.expm1(2 * log_a)))
    input_BTE = multiplier * i * x
    if real_BT is not None:
        input_BTE = jnp.where(real_BT[..., None], input_BTE, 0)
    decay_BTE = _scan_decay(a, reset_BT, real_BT)
    h_BTE, h_last_BE = linear_scan(input_BTE, decay_BTE, h0_BE, implementation=implementation)
    return h_BTE.astype(x_BTE.dtype), h_last_BE


def _fwd(x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT, implementation):
    args = (x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT)
    h_BTE, h_last_BE = _rg_lru(*args, implementation)  # pyright: ignore[reportGeneralTypeIssues]
    return (h_BTE, h_last_BE), (*args, h_BTE)


def _bwd(implementation, residuals, gradients):
    *args, h0_BE, reset_BT, real_BT, h_BTE = residuals
    dh_BTE, dh_last_BE = gradients
    x, i, r, decay_E, log_a, a = _gates(*args)
    scan_a = _scan_decay(a, reset_BT, real_BT)
    next_a = jnp.concatenate([scan_a[:, 1:], jnp.ones_like(scan_a[:, :1])], 1)
    d_input, _ = linear_scan(
        dh_BTE.astype(jnp.float32), next_a, dh_last_BE, reverse=True, implementation=implementation
    )
    dh0_BE = scan_a[:, 0] * d_input[:, 0]
    if real_BT is not None:
        d_input = jnp.where(real_BT[..., None], d_input, 0)
    h_before = jnp.concatenate([h0_BE[:, None], h_BTE[:, :-1].astype(jnp.float32)], 1)
    squared = -jnp.expm1(2 * log_a)  # 1 - a^2
    floor = 1 / (4 * MAX_SQRT_GRADIENT**2)
    d_multiplier = -a * a * jax.lax.rsqrt(jnp.maximum(squared, floor))  # d sqrt(1-a^2) / d log a
    started = reset_BT[..., None]
    d_log_a = jnp.where(started, 0, d_input * (h_before * a + i * x * d_multiplier))
    multiplied = d_input * jnp.where(started, 1, jnp.sqrt(squared))
    dr = d_log_a * decay_E[None, None]
    d_decay_E = sum_rows(d_log_a * r)
    d_a_param_E = -C * jax.nn.sigmoid(args[3].astype(jnp.float32)) * d_decay_E
    return (
        (multiplied * i).astype(args[0].dtype),
        (multiplied * x * i * (1 - i)).astype(args[1].dtype),
        (dr * r * (1 - r)).astype(args[2].dtype),
        d_a_param_E.astype(args[3].dtype),
        dh0_BE,
        None,
        None,
    )


_rg_lru.defvjp(_fwd, _bwd)
