# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU: the linear scan with its gates (Griffin paper, section 2.4; resets as in code)."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kernels import platform
from kernels.kept import RECURRENCE
from kernels.rg_lru import gates, gpu, reference, tpu, xla

IMPLEMENTATIONS = {"reference": reference, "xla": xla, "tpu": tpu, "gpu": gpu}
BEST = {"tpu": "tpu"}  # by platform; "xla" elsewhere


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
      implementation: a name of IMPLEMENTATIONS; None takes the best for the platform.

    Returns:
      h_BTE in x's dtype and the last state h_last_BE in float32. Everything between is float32;
      the backward pass keeps the inputs and h_BTE and recomputes the rest. The derivative of the
      square root is clipped at 1000. Bytes that must move: tpu.py counts them.

    Raises:
      ValueError: shapes disagree, a dtype is none of those above, or the implementation is unknown.
        Of one that is named and has no code for this platform the compiler's own error is raised:
        nothing is fallen back to.
    """
    args = checked(
        *(x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT, implementation)
    )
    if implementation is None and x_BTE.shape[1] == 1:
        implementation = "xla"  # one token is no loop anywhere
    if implementation == "reference":
        return reference.forward(*args)  # with the gradients that JAX derives
    return _rg_lru(*args[:4], args[4].astype(jnp.float32), *args[5:], implementation)


def checked(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, implementation):
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
    platform.check("rg_lru", implementation, IMPLEMENTATIONS)
    h0_BE = jnp.where(reset_BT[:, :1], 0, h0_BE)
    return x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT


def run(name: str | None, part: str, *args):
    """A function of the implementation's module."""
    return platform.run(name, IMPLEMENTATIONS, BEST, operator.attrgetter(part), *args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _rg_lru(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, name):
    return fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, name)[0]


def fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, name):
    """(outputs, residuals)."""
    args = (x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT)
    h_BTE, h_last_BE = run(name, "forward", *args)
    h_BTE = checkpoint_name(h_BTE, RECURRENCE)
    return (h_BTE, h_last_BE), (*args, h_BTE)


def bwd(name, residuals, gradients):
    """Gradients of the seven arguments."""
    a_param_E = residuals[3]
    dx, di, dr, ddecay_E, dh0_BE = run(name, "backward", *residuals, *gradients)
    d_a_param_E = -gates.C * jax.nn.sigmoid(a_param_E.astype(jnp.float32)) * ddecay_E
    return dx, di, dr, d_a_param_E.astype(a_param_E.dtype), dh0_BE, None, None


_rg_lru.defvjp(fwd, bwd)
