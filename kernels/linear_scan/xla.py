# SPDX-License-Identifier: Apache-2.0
"""The linear scan for XLA, in the form that each platform's compiler does best.

On a CPU one loop runs over the rows of a batch laid end to end, because a step of its loop is fast
only on contiguous memory: half the time of a loop over [B, E] at batch 8 (docs/kernels.md). A TPU
takes all rows in a step; a GPU, which would start a kernel a step, scans in logarithmic depth.
"""

import jax
import jax.numpy as jnp

from kernels import platform


def scan(
    x_BTE: jax.Array, a_BTE: jax.Array, h0_BE: jax.Array, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """See api.linear_scan; h in x's dtype. One token takes no loop."""
    if x_BTE.shape[1] == 1:
        h_BE = _step(h0_BE, x_BTE[:, 0], a_BTE[:, 0])
        return h_BE[:, None].astype(x_BTE.dtype), h_BE
    form = {"cpu": _end_to_end, "gpu": _logarithmic}.get(platform.current(), _all_rows)
    return form(x_BTE, a_BTE, h0_BE, reverse)


def _step(h_E: jax.Array, x_E: jax.Array, a_E: jax.Array) -> jax.Array:
    return a_E.astype(jnp.float32) * h_E + x_E.astype(jnp.float32)


def _all_rows(x_BTE, a_BTE, h0_BE, reverse: bool):
    def step(h_BE, x_and_a):
        h_BE = _step(h_BE, *x_and_a)
        return h_BE, h_BE.astype(x_BTE.dtype)

    time_major = (jnp.swapaxes(x_BTE, 0, 1), jnp.swapaxes(a_BTE, 0, 1))
    h_last_BE, h_TBE = jax.lax.scan(step, h0_BE, time_major, reverse=reverse)
    return jnp.swapaxes(h_TBE, 0, 1), h_last_BE


def _end_to_end(x_BTE, a_BTE, h0_BE, reverse: bool):
    batch, time, width = x_BTE.shape

    def step(h_E, token):
        index, x_E, a_E = token
        if batch > 1:
            first = index % time == (time - 1 if reverse else 0)
            start_E = jax.lax.dynamic_index_in_dim(h0_BE, index // time, 0, False)
            h_E = jnp.where(first, start_E, h_E)
        h_E = _step(h_E, x_E, a_E)
        return h_E, h_E

    x_NE, a_NE = x_BTE.reshape(-1, width), a_BTE.reshape(-1, width)
    h_E = h0_BE[-1 if reverse else 0]
    h_E, h_NE = jax.lax.scan(step, h_E, (jnp.arange(batch * time), x_NE, a_NE), reverse=reverse)
    h_BTE = h_NE.reshape(x_BTE.shape)
    h_last_BE = h_E[None] if batch == 1 else h_BTE[:, 0 if reverse else -1]
    return h_BTE.astype(x_BTE.dtype), h_last_BE


def _logarithmic(x_BTE, a_BTE, h0_BE, reverse: bool):
    def combine(left, right):
        return right[0] * left[0], right[0] * left[1] + right[1]

    wide = (a_BTE.astype(jnp.float32), x_BTE.astype(jnp.float32))
    a_BTE, b_BTE = jax.lax.associative_scan(combine, wide, reverse=reverse, axis=1)
    h_BTE = a_BTE * h0_BE[:, None] + b_BTE
    return h_BTE.astype(x_BTE.dtype), h_BTE[:, 0 if reverse else -1]


def effect(x_BTE: jax.Array, a_BTE: jax.Array, reverse: bool) -> tuple[jax.Array, jax.Array]:
    """See vjp.effect."""

    def step(effect, x_and_a):
        x_BE, a_BE = (v.astype(jnp.float32) for v in x_and_a)
        return (a_BE * effect[0], a_BE * effect[1] + x_BE), None

    x_TBE, a_TBE = jnp.swapaxes(x_BTE, 0, 1), jnp.swapaxes(a_BTE, 0, 1)
    zero_BE = 0 * x_TBE[0].astype(jnp.float32)
    return jax.lax.scan(step, (1 + zero_BE, zero_BE), (x_TBE, a_TBE), reverse=reverse)[0]
