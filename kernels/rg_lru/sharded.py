# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU of a sequence that is cut over a mesh axis (inside jax.shard_map).

As linear_scan/sharded.py: each device's part is reduced to its effect (a, b) on a state, the
devices exchange those, then each runs the kernel from the state that enters its part; the backward
pass does so from the end. A document start inside a part makes its a zero, and nothing passes it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kernels.rg_lru import vjp
from kernels.sequence import alike, carry_in, check_not_reference, of_last


def rg_lru(
    x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, axis: str, name: str | None
) -> tuple[jax.Array, jax.Array]:
    """See api.rg_lru. Raises ValueError for `reference`, which is of whole sequences only."""
    check_not_reference("rg_lru", name)
    gated = alike(axis, x, input_gate, a_gate, a_param_E, h0_BE, reset_BT)
    real = None if real_BT is None else alike(axis, real_BT, x)[0]
    out: Any = _rg_lru(*gated, real, axis, name)
    h_BTE, h_end_BE = out
    return h_BTE, of_last(h_end_BE, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _rg_lru(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, axis, name):
    return _fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, axis, name)[0]


def _fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, axis, name):
    gated = (x, input_gate, a_gate, a_param_E)
    a_BE, b_BE = vjp.run(name, "effect", *gated, reset_BT, real_BT)
    h_in_BE = carry_in(a_BE, b_BE, h0_BE, axis)
    return vjp.fwd(*gated, h_in_BE, reset_BT, real_BT, name)


def _bwd(axis, name, residuals, gradients):
    _, _, a_gate, a_param_E, _, reset_BT, real_BT, _ = residuals
    dh_BTE, dh_end_BE = gradients
    a_BE, b_BE = vjp.run(name, "effect_backward", a_gate, a_param_E, reset_BT, real_BT, dh_BTE)
    zero_BE = jnp.zeros_like(dh_end_BE)
    after_BE = carry_in(a_BE, a_BE * dh_end_BE + b_BE, zero_BE, axis, reverse=True)
    *gradients, dh0_BE, _, _ = vjp.bwd(name, residuals, (dh_BTE, dh_end_BE + after_BE))
    return *gradients, jnp.where(jax.lax.axis_index(axis) == 0, dh0_BE, 0), None, None


_rg_lru.defvjp(_fwd, _bwd)
