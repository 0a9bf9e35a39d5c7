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

from kernels.rg_lru import api
from kernels.sequence import alike, carry_in, check_not_reference, of_last


def rg_lru_sharded(
    x_BTE: jax.Array,
    input_gate_BTE: jax.Array,
    a_gate_BTE: jax.Array,
    a_param_E: jax.Array,
    h0_BE: jax.Array | None = None,
    *,
    axis: str,
    reset_BT: jax.Array | None = None,
    real_BT: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """rg_lru of the whole sequence, of which the streams are this device's part.

    h0 and the last state, which belong to the whole sequence, are equal on all devices of `axis`.

    Raises:
      ValueError: as rg_lru; also for `reference`, which is of whole sequences only.
    """
    args = api.checked(
        *(x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT, implementation)
    )
    check_not_reference("rg_lru_sharded", implementation)
    gated = alike(axis, *args[:6])
    real = alike(axis, args[6], x_BTE)[0] if real_BT is not None else None
    out: Any = _rg_lru(*gated, real, axis, implementation)
    h_BTE, h_end_BE = out
    return h_BTE, of_last(h_end_BE, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _rg_lru(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, axis, name):
    return _fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, axis, name)[0]


def _fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, axis, name):
    gated = (x, input_gate, a_gate, a_param_E)
    a_BE, b_BE = api.run(name, "effect", *gated, reset_BT, real_BT)
    h_in_BE = carry_in(a_BE, b_BE, h0_BE, axis)
    return api.fwd(*gated, h_in_BE, reset_BT, real_BT, name)


def _bwd(axis, name, residuals, gradients):
    _, _, a_gate, a_param_E, _, reset_BT, real_BT, _ = residuals
    dh_BTE, dh_end_BE = gradients
    a_BE, b_BE = api.run(name, "effect_backward", a_gate, a_param_E, reset_BT, real_BT, dh_BTE)
    zero_BE = jnp.zeros_like(dh_end_BE)
    after_BE = carry_in(a_BE, a_BE * dh_end_BE + b_BE, zero_BE, axis, reverse=True)
    *found, dh0_BE, _, _ = api.bwd(name, residuals, (dh_BTE, dh_end_BE + after_BE))
    return *found, jnp.where(jax.lax.axis_index(axis) == 0, dh0_BE, 0), None, None


_rg_lru.defvjp(_fwd, _bwd)
