# SPDX-License-Identifier: Apache-2.0
"""The linear scan of a sequence that is cut over a mesh axis (inside jax.shard_map).

Each device first reduces its part to (a, b), what it does to a state that enters it: h -> a h + b;
the devices exchange those, and each scans its part from the state that does enter. That reads the
part twice and writes it once; to scan first and correct afterwards would read and write h again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kernels.linear_scan import vjp
from kernels.sequence import alike, carry_in, check_not_reference, of_last


def scan(
    x_BTE, a_BTE, h0_BE, axis: str, reverse: bool, name: str | None
) -> tuple[jax.Array, jax.Array]:
    """See api.linear_scan. Raises ValueError for `reference`, which is of whole sequences only."""
    check_not_reference("linear_scan", name)
    out: Any = _scan(*alike(axis, x_BTE, a_BTE, h0_BE), axis, reverse, name)
    h_BTE, h_end_BE = out
    if reverse:
        h_end_BE = jnp.where(jax.lax.axis_index(axis) == 0, h_end_BE, 0)
        return h_BTE, jax.lax.psum(h_end_BE, axis)
    return h_BTE, of_last(h_end_BE, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _scan(x_BTE, a_BTE, h0_BE, axis: str, reverse: bool, name: str | None):
    return _fwd(x_BTE, a_BTE, h0_BE, axis, reverse, name)[0]


def _fwd(x_BTE, a_BTE, h0_BE, axis, reverse, name):
    h_in_BE = carry_in(*vjp.effect(name, reverse, x_BTE, a_BTE), h0_BE, axis, reverse=reverse)
    return vjp.fwd(x_BTE, a_BTE, h_in_BE, reverse, name)


def _bwd(axis, reverse, name, residuals, gradients):
    a_BTE = residuals[1]
    dh_BTE, dh_end_BE = gradients
    a32_BTE = a_BTE.astype(jnp.float32)
    a_BE, b_BE = vjp.effect(name, not reverse, a32_BTE * dh_BTE.astype(jnp.float32), a32_BTE)
    zero_BE = jnp.zeros_like(dh_end_BE)
    after_BE = carry_in(a_BE, a_BE * dh_end_BE + b_BE, zero_BE, axis, reverse=not reverse)
    dx, da, dh0_BE = vjp.bwd(reverse, name, residuals, (dh_BTE, dh_end_BE + after_BE))
    first = jax.lax.axis_size(axis) - 1 if reverse else 0
    return dx, da, jnp.where(jax.lax.axis_index(axis) == first, dh0_BE, 0)


_scan.defvjp(_fwd, _bwd)
