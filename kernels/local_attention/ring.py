# SPDX-License-Identifier: Apache-2.0
"""The ring of the last W keys or values: the token at position p of its document has place p mod W.

A place is empty, and zero, where the document has no token for it yet, so that equal histories give
equal rings whatever was in them before.
"""

import jax
import jax.numpy as jnp

from kernels.sequence import take_tokens


def time_order(ring_BWK: jax.Array, next_position_B: jax.Array) -> jax.Array:
    """The ring with its entries in order of time: the last one is the token just before."""
    window = ring_BWK.shape[1]
    place_BW = (next_position_B[:, None] + _places(next_position_B, window)) % window
    return jnp.take_along_axis(ring_BWK, place_BW[..., None], 1)


def place_distance(next_position_B: jax.Array, window: int) -> jax.Array:
    """How far before the token at next_position each place holds one: [B, W], from 1 to W."""
    return (next_position_B[:, None] - 1 - _places(next_position_B, window)) % window + 1


def _places(like: jax.Array, window: int) -> jax.Array:
    return jnp.arange(window, dtype=like.dtype)[None]


def write_ring(
    ring_BWK: jax.Array | None,
    new_BTK: jax.Array,
    window: int,
    *,
    start_position_B: jax.Array,
    end_B: jax.Array,
    next_position_B: jax.Array,
    axis: str | None = None,
) -> jax.Array:
    """The ring after a chunk.

    Args:
      ring_BWK: the ring before the chunk; None when every row starts a document.
      new_BTK: keys or values of the chunk.
      window: W.
      start_position_B: position that follows the ring's last token.
      end_B: index one past the last real token of each row (0: the row has none).
      next_position_B: position that follows that token in its document.
      axis: mesh axis (inside jax.shard_map) over which the chunk is cut, of which new is this
        device's part; all else, and the ring, is the whole's.
    """
    batch, _, size = new_BTK.shape
    if ring_BWK is None:
        past_BWK = jnp.zeros((batch, window, size), new_BTK.dtype)
    else:
        past_BWK = time_order(ring_BWK, start_position_B)
    distance_BW = place_distance(next_position_B, window)
    index_BW = window + end_B[:, None] - distance_BW
    if axis is not None:
        ring_BWK = take_tokens(new_BTK, past_BWK, index_BW, axis)
    else:
        source_BSK = jnp.concatenate([past_BWK.astype(new_BTK.dtype), new_BTK], 1)
        ring_BWK = jnp.take_along_axis(source_BSK, index_BW[..., None], 1)
    return jnp.where((distance_BW <= next_position_B[:, None])[..., None], ring_BWK, 0)


def write_one(
    ring_BWK: jax.Array,
    new_B1K: jax.Array,
    *,
    position_B1: jax.Array,
    real_B1: jax.Array | None,
    may_reset: bool,
) -> jax.Array:
    """The ring after one more token per row, touching one place only.

    may_reset: whether position 0 may appear while the ring holds another document, whose entries
    are then cleared; a ring that continues its own document never needs it.
    """
    window = ring_BWK.shape[1]
    position_B = position_B1[:, 0]
    if may_reset:
        clear_B = position_B == 0
        ring_BWK = jnp.where(clear_B[:, None, None], 0, ring_BWK)
    place_B = jnp.maximum(position_B, 0) % window
    if real_B1 is None:
        real_B1 = jnp.ones_like(position_B1, bool)
    return jax.lax.platform_dependent(
        *(ring_BWK, place_B, new_B1K[:, 0].astype(ring_BWK.dtype), real_B1),
        cpu=_set_on_cpu,
        default=_set,
    )


def _set(ring_BWK, place_B, new_BK, real_B1) -> jax.Array:
    row_B = jnp.arange(ring_BWK.shape[0])
    new_BK = jnp.where(real_B1, new_BK, ring_BWK[row_B, place_B])
    return ring_BWK.at[row_B, place_B].set(new_BK)


def _set_on_cpu(ring_BWK, place_B, new_BK, real_B1) -> jax.Array:
    """XLA's CPU compiler writes into bfloat16 by way of a float32 copy of it all, unless there is
    one row only: one pass over the ring costs half."""
    if ring_BWK.dtype != jnp.bfloat16 or ring_BWK.shape[0] == 1:
        return _set(ring_BWK, place_B, new_BK, real_B1)
    here_BW = (jnp.arange(ring_BWK.shape[1])[None] == place_B[:, None]) & real_B1
    return jnp.where(here_BW[..., None], new_BK[:, None], ring_BWK)
