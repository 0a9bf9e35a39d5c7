# SPDX-License-Identifier: Apache-2.0
"""Verification: one chunk tells what plain decoding would draw after each of several tokens.

    read so far | unread (1 or more, known) | proposed |       a chunk of W tokens
                                   ^ draws  ^ draws  ^ draws   each from its own seed and step

A proposal stands as long as it is what is drawn in its place, so that the answer is what plain
decoding draws, greedy or not, whoever proposes; the draw after the last one that stands is a token,
too. Where all stand, the state after the chunk is kept. Where one falls, the state before it is:
the tokens that were drawn are then read once more, in the next chunk.

B slots, W tokens of a chunk, V vocabulary, N reported likeliest tokens.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.generation.draw import SamplingArrays, log_probs, sample
from recurrentgemma.state import State
from serving.engine.programs import Programs


class Chunk(NamedTuple):
    """What each slot reads, as numpy arrays; a slot of no length is left alone."""

    tokens_BW: Any  # int32: unread, proposed
    lengths_B: Any  # int32: of both
    unread_B: Any  # int32, at least 1 where there is a length
    count_B: Any  # int32: tokens generated so far


class Drawn(NamedTuple):
    """Of each slot the draws that count are the first accepted_B + 1 from place unread_B - 1 on."""

    tokens_BW: Any  # int32
    accepted_B: Any  # int32, proposals that stand
    logp_BW: Any  # None unless asked for, as are the next two
    top_logp_BWN: Any
    top_tokens_BWN: Any


class Verifier:
    """The program, for one model and a width W."""

    def __init__(self, programs: Programs, *, width: int):
        self.width, self._programs = width, programs
        self._verify = jax.jit(
            partial(_verify, programs.graphdef, vocab_size=programs.vocab_size),
            donate_argnums=1,
            static_argnames="top",
        )

    def __call__(
        self,
        state: State,
        chunk: Chunk,
        sampling: SamplingArrays,
        *,
        place_B: np.ndarray,
        scored: bool,
    ) -> tuple[State, Drawn]:
        """The state of each slot, which is donated, as it was or after all of its chunk; and what
        is drawn."""
        params = self._programs.with_adapters(place_B)
        top = self._programs.top if scored else None
        return self._verify(params, state, chunk, sampling, top=top)


def _verify(
    graphdef,
    params,
    state: State,
    chunk: Chunk,
    sampling: SamplingArrays,
    *,
    vocab_size: int,
    top: int | None,
) -> tuple[State, Drawn]:
    model = nnx.merge(graphdef, params)
    tokens_BW, lengths_B, unread_B, count_B = map(jnp.asarray, chunk)
    batch_size, width = tokens_BW.shape
    x_BWD, after = model.hidden(tokens_BW, state, lengths=lengths_B)
    logits_MV = model.unembed(x_BWD.reshape(batch_size * width, -1))[:, :vocab_size]
    place_1W = jnp.arange(width)[None]
    step_BW = jnp.maximum(count_B[:, None] + place_1W - (unread_B[:, None] - 1), 0)
    of_row = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), width, 0), sampling)
    drawn_M = sample(logits_MV, of_row, step_BW.reshape(-1))
    drawn_BW = drawn_M.reshape(batch_size, width)
    proposed_BW = (place_1W >= unread_B[:, None]) & (place_1W < lengths_B[:, None])
    stands_BW = proposed_BW & (jnp.roll(drawn_BW, 1, 1) == tokens_BW)
    stands_BW |= place_1W < unread_B[:, None]
    accepted_B = jnp.sum(jnp.cumprod(stands_BW.astype(jnp.int32), 1), 1) - unread_B
    keep_B = accepted_B == lengths_B - unread_B

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(keep_B.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    scores: list[Any] = [None] * 3
    if top is not None:
        scores = [
            x.reshape(batch_size, width, *x.shape[1:]) for x in log_probs(logits_MV, drawn_M, top)
        ]
    return jax.tree.map(chosen, after, state), Drawn(drawn_BW, accepted_B, *scores)
