# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU for NVIDIA GPUs from Hopper on: gates, resets, padding and recurrence in one Pallas
kernel (Mosaic GPU) each way.

Bytes of HBM for each token and channel, with S = 2 (bfloat16) or 4 (float32) bytes a value; the
last column is for sequences that are walked twice because too few of them run side by side
(kernels/warpgroup.py):

| | reads | writes | bytes | in segments |
|---|---|---|---|---|
| forward | x, input gate, a gate | h | 4 S | 7 S |
| backward | x, input gate, a gate, h, dh | dx, d input gate, d a gate | 8 S | 10 S |

Exponentials and reciprocal square roots are the hardware's: relative errors near 1e-6.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kernels import warpgroup
from kernels.marks import PADDING, RESET, marks
from kernels.rg_lru import gates

TINY = 1.2e-38  # above it the reciprocal square root is finite

# A division takes many instructions, and Mosaic GPU has no square root.
FAST = gates.Functions(
    sigmoid=lambda x: jnp.square(jax.lax.rsqrt(1.0 + jnp.exp(-x))),
    sqrt=lambda x: x * jax.lax.rsqrt(jnp.maximum(x, TINY)),
)


def forward(
    x_BTE,
    input_gate_BTE,
    a_gate_BTE,
    a_param_E,
    h0_BE,
    reset_BT,
    real_BT,
    *,
    interpret: Any = False,
) -> tuple[jax.Array, jax.Array]:
    """(h_BTE in x's dtype, last h_BE in float32). interpret: see warpgroup.walk."""
    streams = (x_BTE, input_gate_BTE, a_gate_BTE)
    given = (marks(reset_BT, real_BT), gates.decay(a_param_E))
    length = warpgroup.segment_length(*x_BTE.shape)
    start_BNE = h0_BE[:, None]
    if warpgroup.segments(x_BTE.shape[1], length) > 1:
        a_BNE, b_BNE = _effects(_effect_step, streams, *given, length, interpret)
        start_BNE, _ = warpgroup.enter(a_BNE, b_BNE, h0_BE)
    (h_BTE,), (last_BNE,) = warpgroup.walk(
        _forward_step,
        streams,
        given[0],
        given[1:],
        (start_BNE,),
        (x_BTE.dtype,),
        length=length,
        name="rg_lru_forward",
        interpret=interpret,
    )
    return h_BTE, last_BNE[:, -1]


def backward(
    x_BTE,
    input_gate_BTE,
    a_gate_BTE,
    a_param_E,
    h0_BE,
    reset_BT,
    real_BT,
    h_BTE,
    dh_BTE,
    dlast_BE,
    *,
    interpret: Any = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Gradients of x, input gate, a gate, decay [E] and h0, given h and the gradients of both
    outputs."""
    inputs = (x_BTE, input_gate_BTE, a_gate_BTE)
    given = (marks(reset_BT, real_BT), gates.decay(a_param_E))
    length = warpgroup.segment_length(*x_BTE.shape)
    start_BNE = dlast_BE[:, None]
    if warpgroup.segments(x_BTE.shape[1], length) > 1:
        streams = (a_gate_BTE, dh_BTE)
        a_BNE, b_BNE = _effects(
            _effect_backward_step, streams, *given, length, interpret, reverse=True
        )
        start_BNE, _ = warpgroup.enter(a_BNE, b_BNE, dlast_BE, reverse=True)
    (dx, di, dr), (c_BNE, ddecay_BNE) = warpgroup.walk(
        _backward_step,
        (*inputs, dh_BTE),
        given[0],
        given[1:],
        (start_BNE, jnp.zeros_like(start_BNE)),
        [v.dtype for v in inputs],
        length=length,
        name="rg_lru_backward",
        before=warpgroup.Before(h_BTE, h0_BE),
        reverse=True,
        interpret=interpret,
    )
    return dx, di, dr, ddecay_BNE.sum((0, 1)), c_BNE[:, 0]


def effect(
    x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, reset_BT, real_BT, *, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
    """(a, b) of a sequence that turns the state h into a h + b; float32 [B, E]. Reads 3 S bytes."""
    streams = (x_BTE, input_gate_BTE, a_gate_BTE)
    given = (marks(reset_BT, real_BT), gates.decay(a_param_E))
    length = warpgroup.segment_length(*x_BTE.shape)
    return warpgroup.compose(*_effects(_effect_step, streams, *given, length, interpret))


def effect_backward(
    a_gate_BTE, a_param_E, reset_BT, real_BT, dh_BTE, *, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
    """(a, b) of the backward pass, which turns the gradient g of the last state into that of the
    first, a g + b. Reads 2 S bytes."""
    streams = (a_gate_BTE, dh_BTE)
    given = (marks(reset_BT, real_BT), gates.decay(a_param_E))
    length = warpgroup.segment_length(*dh_BTE.shape)
    effects = _effects(_effect_backward_step, streams, *given, length, interpret, reverse=True)
    return warpgroup.compose(*effects, reverse=True)


def _effects(step, streams, flag_BT, decay_E, length: int, interpret: Any, *, reverse=False):
    """(a, b) of each segment: [B, N, E]."""
    count = warpgroup.segments(flag_BT.shape[1], length)
    return warpgroup.walk(
        step,
        streams,
        flag_BT,
        (decay_E,),
        warpgroup.nothing(streams[0], count),
        (),
        length=length,
        name=f"rg_lru{step.__name__.removesuffix('_step')}",
        reverse=reverse,
        interpret=interpret,
    )[1]


def _forward_step(token, flag, channel, carry):
    (h,) = carry
    x, a = _scan_inputs(token, flag, channel)
    h = a * h + x
    return (h,), (h,)


def _backward_step(token, flag, channel, carry):
    """carry: a_{t+1} times the gradient of h_{t+1}, and the sum over tokens of that of decay."""
    (x, i, r, dh, h_before), (decay,), (c, ddecay_sum) = token, channel, carry
    reset, padding = flag == RESET, flag == PADDING
    g = dh + c
    dx, di, dr, ddecay = gates.gradients(
        g, h_before, x, i, r, decay, reset, padding, functions=FAST
    )
    a = gates.scan_decay(r, decay, reset, padding, functions=FAST)
    return (dx, di, dr), (a * g, ddecay_sum + ddecay)


def _effect_step(token, flag, channel, carry):
    a_all, b_all = carry
    x, a = _scan_inputs(token, flag, channel)
    return (), (a * a_all, a * b_all + x)


def _effect_backward_step(token, flag, channel, carry):
    (r, dh), (decay,), (a_all, b_all) = token, channel, carry
    a = gates.scan_decay(r, decay, flag == RESET, flag == PADDING, functions=FAST)
    return (), (a * a_all, a * (b_all + dh))


def _scan_inputs(token, flag, channel):
    (x, i, r), (decay,) = token, channel
    return gates.scan_inputs(x, i, r, decay, flag == RESET, flag == PADDING, functions=FAST)
