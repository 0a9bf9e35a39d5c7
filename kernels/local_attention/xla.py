# SPDX-License-Identifier: Apache-2.0
"""Sliding-window attention for XLA, in blocks of queries: cost O(T W) in compute and memory.

A block of C queries sees one slice of W + C keys. The heads of a query share their keys, so they
are rows of one matrix product.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kernels.dot import dot, dot_transposed
from kernels.kept import ATTENTION
from kernels.local_attention import ring

BLOCK = 256  # queries per block
MASKED = -2.3819763e38


def attention(
    q_BTHK, k_BTK, v_BTK, past_k_BWK, past_v_BWK, positions_BT, start_position_B, *, window: int
) -> jax.Array:
    """See api.local_attention; past is in order of time."""
    if past_k_BWK is not None:
        k_BTK = jnp.concatenate([past_k_BWK, k_BTK], 1)
        v_BTK = jnp.concatenate([past_v_BWK, v_BTK], 1)
    reach_BT = jnp.minimum(window, positions_BT)
    args = (q_BTHK, k_BTK, v_BTK, reach_BT)
    return checkpoint_name(_rows(functools.partial(_row, window=window), *args), ATTENTION)


def _row(
    q_THK: jax.Array, k_SK: jax.Array, v_SK: jax.Array, reach_T: jax.Array, *, window: int
) -> jax.Array:
    """One row of the batch. S - T keys (0 or W) come before the first query."""
    time, heads, size = q_THK.shape
    block = min(BLOCK, time)
    count = -(-time // block)
    padding = count * block - time
    past = k_SK.shape[0] - time
    before = past or min(window, (count - 1) * block)  # keys that a block sees before its own
    grow = ((before - past, padding), (0, 0))
    k_SK, v_SK = jnp.pad(k_SK, grow), jnp.pad(v_SK, grow)
    q_NCHK = jnp.pad(q_THK, ((0, padding), (0, 0), (0, 0))).reshape(count, block, heads, size)
    reach_NC = jnp.pad(reach_T, (0, padding)).reshape(count, block)
    distance_CS = (
        before + jnp.arange(block)[:, None] - jnp.arange(before + block)[None]
    )  # the same for every block

    @jax.checkpoint
    def one(first: jax.Array, q_CHK: jax.Array, reach_C: jax.Array) -> jax.Array:
        keys_SK = jax.lax.dynamic_slice_in_dim(k_SK, first, before + block)
        values_SK = jax.lax.dynamic_slice_in_dim(v_SK, first, before + block)
        visible_CS = (distance_CS >= 0) & (distance_CS <= reach_C[:, None])
        logits_RS = dot_transposed(q_CHK.reshape(block * heads, size), keys_SK) * size**-0.5
        logits_CHS = logits_RS.reshape(block, heads, -1)
        logits_CHS = jnp.where(visible_CS[:, None], logits_CHS, MASKED)
        weights_CHS = jax.nn.softmax(logits_CHS, -1).astype(values_SK.dtype)
        return dot(weights_CHS.reshape(block * heads, -1), values_SK).reshape(q_CHK.shape)

    if count == 1:
        return one(jnp.int32(0), q_NCHK[0], reach_NC[0])[:time].astype(q_THK.dtype)
    first_N = jnp.arange(count, dtype=jnp.int32) * block
    out_NCHK = jax.lax.map(lambda args: one(*args), (first_N, q_NCHK, reach_NC))
    return out_NCHK.reshape(-1, heads, size)[:time].astype(q_THK.dtype)


def decode(
    q_B1HK, k_B1K, v_B1K, ring_k_BWK, ring_v_BWK, positions_B1, start_position_B
) -> jax.Array:
    """One query per row, over the ring as it lies (no copy of it) and the query's own key."""
    visible_BW = ring.place_distance(start_position_B, ring_k_BWK.shape[1]) <= positions_B1
    args = (q_B1HK[:, 0], k_B1K, v_B1K, ring_k_BWK, ring_v_BWK, visible_BW)
    if q_B1HK.dtype == jnp.float32:
        out_BHK = jax.vmap(_decode_row)(*args)
    else:
        out_BHK = _rows(_decode_row, *args, loop=_by_index)
    return out_BHK[:, None].astype(q_B1HK.dtype)


def _decode_row(q_HK, k_1K, v_1K, ring_k_WK, ring_v_WK, visible_W) -> jax.Array:
    scale = q_HK.shape[-1] ** -0.5
    past_HW = dot_transposed(q_HK, ring_k_WK) * scale
    own_H1 = dot_transposed(q_HK, k_1K) * scale
    past_HW = jnp.where(visible_W[None], past_HW, MASKED)
    top_H1 = jnp.maximum(jnp.max(past_HW, -1, keepdims=True), own_H1)
    past_HW, own_H1 = jnp.exp(past_HW - top_H1), jnp.exp(own_H1 - top_H1)
    sum_H1 = jnp.sum(past_HW, -1, keepdims=True) + own_H1
    out_HK = dot(past_HW.astype(q_HK.dtype), ring_v_WK) + own_H1 * v_1K.astype(jnp.float32)
    return out_HK / sum_H1


def _by_slice(function, args: tuple[jax.Array, ...]) -> jax.Array:
    return jax.lax.map(lambda row: function(*row), args)


def _by_index(function, args: tuple[jax.Array, ...]) -> jax.Array:
    """_by_slice without a float32 copy of bfloat16 arguments (see kernels/lookup.py); its gradient
    would add up whole arguments row by row."""

    def row(b: jax.Array) -> jax.Array:
        tied, b = jax.lax.optimization_barrier((args, b))
        return function(*[jax.lax.dynamic_index_in_dim(x, b, 0, False) for x in tied])

    return jax.lax.map(row, jnp.arange(args[0].shape[0]))


def _rows(function, *args: jax.Array, loop=_by_slice) -> jax.Array:
    """The function of each row of the batch: one after the other on a CPU, whose compiler has fast
    products in bfloat16 of two matrices only, and where a row's logits are to stay in the cache."""
    if args[0].shape[0] == 1:
        return function(*[x[0] for x in args])[None]
    return jax.lax.platform_dependent(
        *args, cpu=lambda *args: loop(function, args), default=jax.vmap(function)
    )
