# SPDX-License-Identifier: Apache-2.0
"""A replay buffer on the device: a ring of transitions, drawn from at random.

buffer = empty(100_000, one)                 # one: a transition, for shapes and types
buffer = added(buffer, batch)                # [B, ...]
batch = drawn(buffer, key, 32)               # of those that are there
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Buffer(NamedTuple):
    """place: where the next one goes, of `size` rows; full: how many are there. int32."""

    rows: Any
    place: jax.Array
    full: jax.Array


def empty(size: int, one: Any) -> Buffer:
    """Of nothing. `added` wants a number of rows that divides `size`."""
    rows = jax.tree.map(lambda x: jnp.zeros((size, *jnp.shape(x)), jnp.asarray(x).dtype), one)
    return Buffer(rows, jnp.int32(0), jnp.int32(0))


def added(buffer: Buffer, batch: Any, *, protected: int = 0) -> Buffer:
    """With the rows of a batch, in place of the oldest.

    protected: so many rows, which were added first, stay for good.
    """
    count = jax.tree.leaves(batch)[0].shape[0]
    size = jax.tree.leaves(buffer.rows)[0].shape[0] - protected
    assert size % count == 0, (size, count)
    rows = jax.tree.map(
        lambda old, new: jax.lax.dynamic_update_slice_in_dim(
            old, new.astype(old.dtype), buffer.place, 0
        ),
        buffer.rows,
        batch,
    )
    place = protected + (buffer.place - protected + count) % size
    return Buffer(rows, place, jnp.minimum(buffer.full + count, protected + size))


def drawn(buffer: Buffer, key: jax.Array, count: int) -> Any:
    """Rows that are there, with replacement: [count, ...]."""
    rows = jax.random.randint(key, (count,), 0, jnp.maximum(buffer.full, 1))
    return jax.tree.map(lambda x: x[rows], buffer.rows)
