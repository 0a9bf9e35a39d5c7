# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU for XLA: gates around a linear scan."""

import jax
import jax.numpy as jnp

from kernels.dot import sum_rows
from kernels.linear_scan import xla
from kernels.rg_lru import gates


def forward(
    x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT
) -> tuple[jax.Array, jax.Array]:
    """(h_BTE in x's dtype, last h_BE in float32)."""
    decay_E = gates.decay(a_param_E)[None, None]
    masks = _masks(reset_BT, real_BT)
    scan_x, scan_a = gates.scan_inputs(x_BTE, input_gate_BTE, a_gate_BTE, decay_E, *masks)
    h_BTE, h_last_BE = xla.scan(scan_x, scan_a, h0_BE, False)
    return h_BTE.astype(x_BTE.dtype), h_last_BE


def backward(
    x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT, h_BTE, dh_BTE, dlast_BE
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Gradients of x, input gate, a gate, decay [E] and h0, given h and the gradients of both
    outputs."""
    token = (x_BTE, input_gate_BTE, a_gate_BTE, gates.decay(a_param_E)[None, None])
    masks = _masks(reset_BT, real_BT)
    a_BTE = gates.scan_decay(*token[2:], *masks)
    next_a_BTE = jnp.concatenate([a_BTE[:, 1:], jnp.ones_like(a_BTE[:, :1])], 1)
    g_BTE, _ = xla.scan(dh_BTE.astype(jnp.float32), next_a_BTE, dlast_BE, True)
    h_before_BTE = jnp.concatenate([h0_BE[:, None], h_BTE[:, :-1].astype(jnp.float32)], 1)
    dx, di, dr, ddecay = gates.gradients(g_BTE, h_before_BTE, *token, *masks)
    return (
        dx.astype(x_BTE.dtype),
        di.astype(input_gate_BTE.dtype),
        dr.astype(a_gate_BTE.dtype),
        sum_rows(ddecay),
        a_BTE[:, 0] * g_BTE[:, 0],
    )


def effect(x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, reset_BT, real_BT):
    """(a, b) of a sequence that turns the state h into a h + b; float32 [B, E]."""
    decay_E = gates.decay(a_param_E)[None, None]
    masks = _masks(reset_BT, real_BT)
    scan_x, scan_a = gates.scan_inputs(x_BTE, input_gate_BTE, a_gate_BTE, decay_E, *masks)
    return xla.effect(scan_x, scan_a, False)


def effect_backward(a_gate_BTE, a_param_E, reset_BT, real_BT, dh_BTE):
    """(a, b) of the backward pass, which turns the gradient g of the last state into that of the
    first, a g + b."""
    decay_E = gates.decay(a_param_E)[None, None]
    a_BTE = gates.scan_decay(a_gate_BTE, decay_E, *_masks(reset_BT, real_BT))
    return xla.effect(a_BTE * dh_BTE.astype(jnp.float32), a_BTE, True)


def _masks(reset_BT: jax.Array, real_BT: jax.Array | None):
    return reset_BT[..., None], None if real_BT is None else ~real_BT[..., None]
