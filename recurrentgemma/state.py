# SPDX-License-Identifier: Apache-2.0
"""The state: all that a model remembers of the past, in a size that does not depend on it.

Per recurrent layer the recurrence (float32) and the last three inputs of the convolution; per
attention layer a ring of the last W keys and values; and the position of the next token in its
document, which wraps before 2^31, so that a document never has to end (chunk.py). What the current
document has not filled yet is zero, so that equal histories give equal states. A state is a pytree
of arrays: snapshot it by keeping it, roll back by using the old one.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from recurrentgemma.config import CONV_WIDTH, GriffinConfig
from recurrentgemma.errors import UserError


class RecurrentState(NamedTuple):
    """What a recurrent block remembers."""

    h_BE: jax.Array  # float32
    conv_B3E: jax.Array  # the convolution's last three inputs, oldest first


class AttentionState(NamedTuple):
    """What an attention block remembers: the token at position p has place p mod W."""

    keys_BWK: jax.Array  # rotated
    values_BWK: jax.Array


class State(NamedTuple):
    """What a model remembers; row i of every array belongs to sequence i."""

    position_B: jax.Array  # int32, position of the next token in its document, less what wrapped
    wrapped_B: jax.Array  # uint32, tokens that position_B leaves out, modulo 2^32: 0 up to LONGEST
    layers: tuple[RecurrentState | AttentionState, ...]


def init_state(config: GriffinConfig, batch_size: int) -> State:
    """The state of batch_size sequences that have seen nothing.

    Raises:
      ValueError: batch_size is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1")
    layers: list[RecurrentState | AttentionState] = []
    for block_type in config.block_types:
        if block_type == "recurrent":
            h_BE = jnp.zeros((batch_size, config.lru_width), jnp.float32)
            conv = (batch_size, CONV_WIDTH - 1, config.lru_width)
            layers.append(RecurrentState(h_BE, jnp.zeros(conv, config.dtype)))
        else:
            ring = (batch_size, config.keys_held(block_type), config.head_dim)
            layers.append(
                AttentionState(jnp.zeros(ring, config.dtype), jnp.zeros(ring, config.dtype))
            )
    zero_B = jnp.zeros((batch_size,), jnp.int32)
    return State(zero_B, zero_B.astype(jnp.uint32), tuple(layers))


def take_slot(state: State, i: int | jax.Array) -> State:
    """The state of sequence i alone, a batch of one.

    Raises:
      ValueError: i is not a row of the state (checked where i is a known number).
    """
    _check_slot(state, i)
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i, 1), state)


def insert_slot(state: State, i: int | jax.Array, one: State) -> State:
    """The state with sequence i replaced by that of a batch of one; the other rows are untouched.

    Raises:
      ValueError: i is not a row of the state (checked where i is a known number), or `one` is not
        a batch of one of the same model.
    """
    _check_slot(state, i)
    expected = jax.tree.map(lambda x: (1, *x.shape[1:]), state)
    if (given := jax.tree.map(lambda x: x.shape, one)) != expected:
        raise UserError(
            f"insert_slot: expected a batch of one of the same model, {expected}; got {given}"
        )
    return jax.tree.map(
        lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), i, 0), state, one
    )


def check_state(state: State, config: GriffinConfig) -> None:
    """Raises ValueError: the state is not one of this config's model; it names the layer."""
    expected = _shapes(config, state.position_B.shape[0])
    given = tuple(tuple(x.shape for x in layer) for layer in state.layers)
    if len(given) != len(expected):
        raise UserError(
            f"state: it has {len(given)} layers and this model {len(expected)}: it is another "
            "model's"
        )
    for i, (layer, wanted) in enumerate(zip(given, expected, strict=True)):
        if layer != wanted:
            got, needed = (" and ".join(map(str, shapes)) for shapes in (layer, wanted))
            raise UserError(
                f"state: layer {i} ({config.block_types[i]}) holds arrays of shape {got}, and "
                f"this model's {needed}: it is another model's, or its config has changed"
            )


@functools.lru_cache(256)
def _shapes(config: GriffinConfig, batch_size: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    layers = jax.eval_shape(lambda: init_state(config, batch_size)).layers
    return tuple(tuple(x.shape for x in layer) for layer in layers)


def _check_slot(state: State, i: int | jax.Array) -> None:
    slots = state.position_B.shape[0]
    if isinstance(i, Tracer):
        return
    if not 0 <= operator.index(i) < slots:
        raise UserError(f"slot {i} is out of range: the state has slots 0 to {slots - 1}")
