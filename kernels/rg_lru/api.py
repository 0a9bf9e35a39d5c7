# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU: the linear scan with its gates (Griffin paper, section 2.4; resets as in code)."""

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.rg_lru import reference, sharded, vjp


def rg_lru(
    x_BTE: jax.Array,
    input_gate_BTE: jax.Array,
    a_gate_BTE: jax.Array,
    a_param_E: jax.Array,
    h0_BE: jax.Array | None = None,
    *,
    reset_BT: jax.Array | None = None,
    real_BT: jax.Array | None = None,
    axis: str | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t, with i = sigmoid(input_gate) and
    log a_t = -8 sigmoid(a_gate_t) softplus(a_param).

    Args:
      x_BTE: input, float32 or bfloat16; T >= 1, any E.
      input_gate_BTE: input gate before its sigmoid.
      a_gate_BTE: recurrence gate before its sigmoid.
      a_param_E: decay parameter.
      h0_BE: state before the first token (zero by default), float32.
      reset_BT: True where a document starts: the state is dropped (a = 0) and the multiplier is 1.
        Dropped by a product with 0: a state that an earlier document of the row has made infinite
        stays non-finite. An h0 before a first token that resets is not read at all.
      real_BT: False at padding, which leaves the state alone and whose inputs may be anything;
        None: all are real.
      axis: mesh axis (inside jax.shard_map) over which the sequence is cut: the streams are this
        device's part, h0 and the last state the whole's, equal on all devices of the axis.
      implementation: a name of vjp.IMPLEMENTATIONS; None takes the best for the platform.

    Returns:
      h_BTE in x's dtype and the last state h_last_BE in float32. Everything between is float32;
      the backward pass keeps the inputs and h_BTE and recomputes the rest. The derivative of the
      square root is clipped at 1000. Bytes that must move: tpu.py counts them.

    Raises:
      ValueError: shapes disagree, a dtype is none of those above, the implementation is unknown, or
        it is `reference` with an axis.
        Of one that is named and has no code for this platform the compiler's own error is raised:
        nothing is fallen back to.
    """
    args = _checked(
        *(x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT, implementation)
    )
    if axis is not None:
        return sharded.rg_lru(*args, axis, implementation)
    if implementation is None and x_BTE.shape[1] == 1:
        implementation = "xla"  # one token is no loop anywhere
    if implementation == "reference":
        return reference.forward(*args)  # with the gradients that JAX derives
    return vjp.rg_lru(*args[:4], args[4].astype(jnp.float32), *args[5:], implementation)


def _checked(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, implementation):
    """The arguments of rg_lru with their defaults. Raises ValueError as rg_lru."""
    if x.ndim != 3 or input_gate.shape != x.shape or a_gate.shape != x.shape or 0 in x.shape:
        raise ValueError(
            f"rg_lru: x has shape {x.shape}, its gates {input_gate.shape} and {a_gate.shape}; "
            "expected one shape [B, T, E] of at least one row, token and channel"
        )
    floats = {"x": x, "input_gate": input_gate, "a_gate": a_gate, "a_param": a_param_E}
    platform.check_dtypes("rg_lru", jnp.floating, **floats, h0=h0_BE)
    platform.check_dtypes("rg_lru", jnp.bool_, reset=reset_BT, real=real_BT)
    batch, time, width = x.shape
    h0_BE = jnp.zeros((batch, width), jnp.float32) if h0_BE is None else h0_BE
    reset_BT = jnp.zeros((batch, time), jnp.bool_) if reset_BT is None else reset_BT
    for name, value, shape in (
        ("a_param", a_param_E, (width,)),
        ("h0", h0_BE, (batch, width)),
        ("reset", reset_BT, (batch, time)),
        ("real", real_BT, (batch, time)),
    ):
        if value is not None and value.shape != shape:
            raise ValueError(f"rg_lru: {name} has shape {value.shape}; expected {shape}")
    platform.check("rg_lru", implementation, vjp.IMPLEMENTATIONS)
    h0_BE = jnp.where(reset_BT[:, :1], 0, h0_BE)
    return x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT
