# SPDX-License-Identifier: Apache-2.0
"""Causal depthwise convolution over time, within documents (Griffin paper, section 2.3).

out_t = b + sum_{s=0..3} w[3 - s] x_{t-s}, without the taps that reach into another document: tap s
does so where it is larger than the position, in a chunk and in its first tokens alike.
"""

import jax
import jax.numpy as jnp

from kernels.dot import sum_rows
from kernels.sequence import alike, tokens_before


def causal_conv(
    x_BTE: jax.Array,
    w_SE: jax.Array,
    b_E: jax.Array,
    past_BPE: jax.Array | None,
    positions_BT: jax.Array,
    *,
    axis: str | None = None,
) -> jax.Array:
    """The convolution of a chunk, summed in float32, in x's dtype.

    Args:
      x_BTE: inputs.
      w_SE: weights of S taps, the last one for the token itself.
      b_E: bias.
      past_BPE: the P = S - 1 inputs before the chunk, oldest first; None: zeros.
      positions_BT: position of each token in its document; the output at a negative one is bias.
      axis: mesh axis (inside jax.shard_map) over which the chunk is cut: x and positions are this
        device's part, past lies before the whole.
    """
    past = w_SE.shape[0] - 1
    if axis is not None:
        past_BPE = tokens_before(x_BTE, past, axis, past_BPE)
        return _conv(*alike(axis, x_BTE, w_SE, b_E, past_BPE), positions_BT)
    if past_BPE is None:
        past_BPE = jnp.zeros((x_BTE.shape[0], past, x_BTE.shape[2]), x_BTE.dtype)
    return _conv(x_BTE, w_SE, b_E, past_BPE, positions_BT)


@jax.custom_vjp
def _conv(x_BTE, w_SE, b_E, past_BPE, positions_BT) -> jax.Array:
    return _fwd(x_BTE, w_SE, b_E, past_BPE, positions_BT)[0]


def _row(v_E: jax.Array) -> jax.Array:
    return v_E.astype(jnp.float32)[None, None]


def _fwd(x_BTE, w_SE, b_E, past_BPE, positions_BT):
    taps, time = w_SE.shape[0], x_BTE.shape[1]
    all_BSE = jnp.concatenate([past_BPE.astype(x_BTE.dtype), x_BTE], 1).astype(jnp.float32)
    out_BTE = _row(b_E)
    for s in range(taps):
        start = taps - 1 - s
        tap_BTE = all_BSE[:, start : start + time] * _row(w_SE[start])
        out_BTE = out_BTE + jnp.where((positions_BT >= s)[..., None], tap_BTE, 0)
    return out_BTE.astype(x_BTE.dtype), (x_BTE, w_SE, b_E, past_BPE, positions_BT)


def _bwd(residuals, g_BTE):
    """The gradient of input t is the sum over s of w[3 - s] g_{t+s}: the same, looking ahead."""
    x_BTE, w_SE, b_E, past_BPE, positions_BT = residuals
    taps, time = w_SE.shape[0], x_BTE.shape[1]
    past = taps - 1
    g_BTE = g_BTE.astype(jnp.float32)
    all_BSE = jnp.concatenate([past_BPE.astype(x_BTE.dtype), x_BTE], 1).astype(jnp.float32)
    ahead_BSE = jnp.pad(g_BTE, ((0, 0), (past, past), (0, 0)))
    position_BS = jnp.pad(positions_BT, ((0, 0), (past, past)), constant_values=-1)
    d_all_BSE = 0.0
    dw = []
    for s in range(taps):
        start = taps - 1 - s
        reaches_BS1 = (position_BS[:, s : s + past + time] >= s)[..., None]
        d_all_BSE += jnp.where(
            reaches_BS1, ahead_BSE[:, s : s + past + time] * _row(w_SE[start]), 0
        )
        product_BTE = g_BTE * all_BSE[:, start : start + time]
        dw.insert(0, sum_rows(jnp.where((positions_BT >= s)[..., None], product_BTE, 0)))
    d_all_BSE = jnp.asarray(d_all_BSE)
    return (
        d_all_BSE[:, past:].astype(x_BTE.dtype),
        jnp.stack(dw).astype(w_SE.dtype),
        sum_rows(g_BTE).astype(b_E.dtype),
        d_all_BSE[:, :past].astype(past_BPE.dtype),
        None,
    )


_conv.defvjp(_fwd, _bwd)
