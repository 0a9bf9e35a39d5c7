# SPDX-License-Identifier: Apache-2.0
"""Where each token of a chunk stands: its position, whether it is padding, what comes after.

Positions count within a document: consecutive, 0 starts one, -1 marks padding. Padding may come
before a 0 or at the end of a row; `lengths` marks it at the end. It never enters the state.

A document may have any number of tokens. Masks and places in a ring need its position only up to a
multiple of W once the window is full, so after LONGEST tokens the state's position goes back by
one, and remembers by how much; the rotary phase needs the true distance, but modulo 2^32 only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from recurrentgemma import parallel
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.state import State, check_state

MOST_TOKENS = 2**26  # of one chunk
LONGEST = 2**31 - MOST_TOKENS  # tokens of a document from which on position_B wraps


def wraps_by(window: int) -> int:
    """By how much a position of at least LONGEST goes back at the end of a chunk: who passes
    positions on from chunk to chunk lets them go back as the state's do."""
    return 2**30 // window * window


class Chunk(NamedTuple):
    """Positions of a chunk of tokens, for every layer alike."""

    positions_BT: jax.Array  # int32, -1 at padding
    real_BT: jax.Array | None  # False at padding; None: there is none
    start_position_B: jax.Array  # position that follows the state
    end_B: jax.Array  # index one past the last real token; 0 where a row has none
    next_position_B: jax.Array  # position that follows the chunk
    distance_BT: jax.Array  # uint32, tokens from the document's start, modulo 2^32; any at padding
    wrapped_B: jax.Array  # uint32, what next_position_B leaves out of that
    may_reset: bool  # whether a document may start after another in a row


def locate(
    state: State | None,
    shape: tuple[int, ...],
    positions_BT: jax.Array | None,
    lengths_B: jax.Array | None,
    window: int,
) -> Chunk:
    """The Chunk of tokens of this shape, given the arguments of the model and its window W."""
    batch, part = shape  # of a row, this device's part
    time = part * parallel.size("sequence")
    first = parallel.first_token(part)
    t_1T = first + jnp.arange(part, dtype=jnp.int32)[None]
    if state is None:
        start_position_B = jnp.zeros((batch,), jnp.int32)
    else:
        start_position_B = state.position_B
    may_reset = positions_BT is not None
    if positions_BT is None:
        positions_BT = start_position_B[:, None] + t_1T
    positions_BT = positions_BT.astype(jnp.int32)
    if lengths_B is None and not may_reset:
        real_BT, end_B = None, jnp.full((batch,), time, jnp.int32)
        next_position_B = start_position_B + time
    else:
        if lengths_B is not None:
            is_real_BT = t_1T < lengths_B.astype(jnp.int32)[:, None]
            positions_BT = jnp.where(is_real_BT, positions_BT, -1)
        real_BT = positions_BT >= 0
        end_B = parallel.largest(jnp.max(jnp.where(real_BT, t_1T + 1, 0), axis=1), "sequence")
        next_BT = jnp.where(t_1T + 1 == end_B[:, None], positions_BT + 1, 0)
        next_position_B = parallel.largest(jnp.max(next_BT, axis=1), "sequence")
        next_position_B = jnp.where(end_B > 0, next_position_B, start_position_B)
    distance_BT = positions_BT.astype(jnp.uint32)
    wrapped_B = jnp.zeros((batch,), jnp.uint32)
    if state is not None:
        wrapped_B = state.wrapped_B
        if may_reset:  # what has wrapped is of the state's document, not of those that start here
            after_BT = jnp.where(positions_BT == 0, time - t_1T, 0)
            after_B = parallel.largest(jnp.max(after_BT, axis=1), "sequence")
            goes_on_BT = t_1T < time - after_B[:, None]
            distance_BT += jnp.where(goes_on_BT, wrapped_B[:, None], 0)
            wrapped_B = jnp.where(after_B > 0, 0, wrapped_B)
        else:
            distance_BT += wrapped_B[:, None]
    back_B = jnp.where(next_position_B >= LONGEST, wraps_by(window), 0)
    return Chunk(
        positions_BT,
        real_BT,
        start_position_B,
        end_B,
        next_position_B - back_B,
        distance_BT,
        wrapped_B + back_B.astype(jnp.uint32),
        may_reset,
    )


def check_inputs(
    config: GriffinConfig,
    tokens_BT: jax.Array,
    state: State | None,
    positions_BT: jax.Array | None,
    lengths_B: jax.Array | None,
) -> None:
    """Checks what can be known now: shapes always, values where they are not being traced.

    Raises:
      ValueError: a shape is wrong, the state is another model's, a token is outside the vocabulary,
        a length is not in [0, T], positions are not consecutive within documents, or a document
        outgrows the context_length of a global attention block.
    """
    if tokens_BT.ndim != 2 or not jnp.issubdtype(tokens_BT.dtype, jnp.integer):
        raise UserError(
            f"tokens: expected whole numbers of shape [B, T], got {tokens_BT.dtype} of shape "
            f"{tokens_BT.shape}"
        )
    batch, time = tokens_BT.shape
    if batch < 1 or time < 1:
        raise UserError(f"tokens: expected at least one row and one token, got {batch} x {time}")
    if time > MOST_TOKENS:
        raise UserError(
            f"tokens: {time} a row; expected at most {MOST_TOKENS} in one call: cut them into "
            "chunks and pass the state on"
        )
    if positions_BT is not None and positions_BT.shape != (batch, time):
        raise UserError(
            f"positions: expected the shape of tokens, {(batch, time)}, got {positions_BT.shape}"
        )
    if lengths_B is not None and lengths_B.shape != (batch,):
        raise UserError(f"lengths: expected shape {(batch,)}, got {lengths_B.shape}")
    if state is not None and state.position_B.shape != (batch,):
        raise UserError(
            f"state: it has {state.position_B.shape[0]} rows and tokens {batch}; expected as many"
        )
    if state is not None:
        check_state(state, config)
    values = (tokens_BT, positions_BT, lengths_B, state and state.position_B)
    if any(isinstance(value, Tracer) for value in values):
        return
    tokens = np.asarray(tokens_BT)
    lengths = np.full((batch,), time) if lengths_B is None else np.asarray(lengths_B)
    if ((lengths < 0) | (lengths > time)).any():
        row = int(np.argmax((lengths < 0) | (lengths > time)))
        raise UserError(
            f"lengths[{row}]={lengths[row]}: expected a number of tokens from 0 to T={time}"
        )
    real = np.arange(time)[None] < lengths[:, None]
    start = np.zeros((batch,), int) if state is None else np.asarray(state.position_B)
    positions = np.zeros((batch, time), int)
    if positions_BT is not None:
        positions = np.where(real, np.asarray(positions_BT), -1)
        _check_positions(positions, start)
        real &= positions >= 0
    vocab_size = config.vocab_size
    outside = real & ((tokens < 0) | (tokens >= vocab_size))
    if outside.any():
        row, t = np.argwhere(outside)[0]
        raise UserError(
            f"tokens[{row}, {t}]={tokens[row, t]} is outside the vocabulary of {vocab_size} "
            f"(ids 0 to {vocab_size - 1})"
        )
    longest = int((start + lengths).max() if positions_BT is None else positions.max() + 1)
    if "global_attention" in config.block_types and longest > config.context_length:
        raise UserError(
            f"a document of {longest} tokens is longer than context_length="
            f"{config.context_length}, the keys that a global attention block holds: take a model "
            "with dataclasses.replace(config, context_length=...)"
        )


def _check_positions(positions_BT: np.ndarray, start_B: np.ndarray) -> None:
    previous_BT = np.concatenate([start_B[:, None] - 1, positions_BT[:, :-1]], 1)
    padding = positions_BT == -1
    good = padding | (positions_BT == 0) | (positions_BT == previous_BT + 1)
    good &= positions_BT >= -1
    if good.all():
        return
    row, t = np.argwhere(~good)[0]
    given, before = positions_BT[row, t], previous_BT[row, t]
    if given < -1:
        expected = "0 or more, or -1 for padding"
    elif before == -1:
        expected = "0, because only a document's start may follow padding or an empty state"
    else:
        expected = f"{before + 1} to go on with the document, or 0 to start one"
    raise UserError(
        f"positions[{row}, {t}]={given} after {before}: positions must not go backwards or jump; "
        f"expected {expected}"
    )
