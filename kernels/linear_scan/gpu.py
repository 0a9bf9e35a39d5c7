# SPDX-License-Identifier: Apache-2.0
"""The linear scan for NVIDIA GPUs from Hopper on: one Pallas kernel (Mosaic GPU) that reads x and a
once and writes h once; see kernels/warpgroup.py for where that takes a second walk.

Bytes of HBM for each token and channel, with S = 2 (bfloat16) or 4 (float32) bytes a value: 3 S, or
5 S where time is cut into segments. The effect alone reads 2 S.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kernels import warpgroup
from kernels.marks import NORMAL, PADDING


def scan(
    x_BTE: jax.Array,
    a_BTE: jax.Array,
    h0_BE: jax.Array,
    reverse: bool,
    *,
    interpret: Any = False,
) -> tuple[jax.Array, jax.Array]:
    """See api.linear_scan; h in x's dtype. interpret: see warpgroup.walk."""
    length = warpgroup.segment_length(*x_BTE.shape)
    start_BNE = h0_BE[:, None]
    if warpgroup.segments(x_BTE.shape[1], length) > 1:
        a_BNE, b_BNE = _effects(x_BTE, a_BTE, reverse, length, interpret)
        start_BNE, _ = warpgroup.enter(a_BNE, b_BNE, h0_BE, reverse=reverse)
    (h_BTE,), (last_BNE,) = warpgroup.walk(
        _step,
        (x_BTE, a_BTE),
        _flags(x_BTE),
        (),
        (start_BNE,),
        (x_BTE.dtype,),
        length=length,
        name="linear_scan",
        reverse=reverse,
        interpret=interpret,
    )
    return h_BTE, last_BNE[:, 0 if reverse else -1]


def effect(
    x_BTE: jax.Array, a_BTE: jax.Array, reverse: bool, *, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
    """See vjp.effect: reads x and a once."""
    length = warpgroup.segment_length(*x_BTE.shape)
    effects = _effects(x_BTE, a_BTE, reverse, length, interpret)
    return warpgroup.compose(*effects, reverse=reverse)


def _effects(x_BTE, a_BTE, reverse: bool, length: int, interpret: Any):
    """(a, b) of each segment: [B, N, E]."""
    count = warpgroup.segments(x_BTE.shape[1], length)
    return warpgroup.walk(
        _effect_step,
        (x_BTE, a_BTE),
        _flags(x_BTE),
        (),
        warpgroup.nothing(x_BTE, count),
        (),
        length=length,
        name="linear_scan_effect",
        reverse=reverse,
        interpret=interpret,
    )[1]


def _flags(x_BTE: jax.Array) -> jax.Array:
    return jnp.full(x_BTE.shape[:2], NORMAL, jnp.int32)


def _step(token, flag, _, carry):
    (x, a), (h,) = token, carry
    h = jnp.where(flag == PADDING, 1.0, a) * h + x
    return (h,), (h,)


def _effect_step(token, flag, _, carry):
    (x, a), (a_all, b_all) = token, carry
    a = jnp.where(flag == PADDING, 1.0, a)
    return (), (a * a_all, a * b_all + x)
