# SPDX-License-Identifier: Apache-2.0
"""The batch that is decoded: a state for each slot on the device, the rest of a slot on the host.

Slots share nothing. What a slot held before is gone when another state is put into it.

B slots, S stop tokens, C tokens of one dispatch, M 32-bit words of a bit a token, N reported
likeliest tokens.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from recurrentgemma.generation.decode import DecodeOptions, DecodeState
from recurrentgemma.generation.draw import sampling_arrays
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.state import State
from serving.engine.programs import Programs
from serving.engine.request import TokenScore, token_scores


class SlotTokens(NamedTuple):
    """What one dispatch has generated in one slot."""

    scores: list[TokenScore]  # of every token; log-probabilities where `scored`
    done: bool  # it ended with a stop token, or for its length


class Slots:
    """`size` states, decoded together. Everything about a slot but its state is the host's."""

    def __init__(self, programs: Programs, size: int, *, stop_ids: tuple[int, ...]):
        self.size = size
        self._programs = programs
        self._state = programs.fresh(size)
        self._token_B = np.zeros(size, np.int32)
        self._count_B = np.zeros(size, np.int32)
        self._done_B = np.ones(size, np.bool_)
        self._options = DecodeOptions(
            sampling_arrays([Sampling(seed=0)] * size),
            np.array([stop_ids or (-1,)] * size, np.int32),
            np.ones(size, np.int32),
        )

    def put(self, slot: int, state: State, token: int, sampling: Sampling) -> None:
        """Begin to decode in a slot. `token` comes after all that `state` has seen, which is
        donated."""
        self._state = self._programs.insert(self._state, slot, state)
        self._token_B[slot] = token
        self._count_B[slot] = 0
        self._done_B[slot] = False
        self._options.max_tokens_B[slot] = sampling.max_tokens
        for all_B, one_1 in zip(self._options.sampling, sampling_arrays([sampling]), strict=True):
            all_B[slot] = one_1[0]

    def clear(self, slot: int) -> None:
        """End a slot; it is decoded along, for nobody, until another state is put into it."""
        self._done_B[slot] = True
        self._options.sampling.temperature_B[slot] = 0  # a slot that samples makes all pay for it

    def decode(
        self, steps: int, *, scored: bool, allowed: Mapping[int, np.ndarray] | None = None
    ) -> list[SlotTokens]:
        """Up to `steps` more tokens in each slot that is not done.

        scored: with log-probabilities.
        allowed: slot -> bits of the tokens that may come next there, and in other slots any; needs
          steps = 1. A program of its own, which costs nothing where nobody asks for it.
        """
        allowed_BM = None
        if allowed:
            words = -(-self._programs.vocab_size // 32)
            allowed_BM = np.full((self.size, words), 2**32 - 1, np.uint32)
            for slot, allowed_M in allowed.items():
                allowed_BM[slot] = allowed_M
        before = self._decode_state(self._state)
        after, decoded = self._programs.decode(
            before, self._options, steps, scored=scored, allowed_BM=allowed_BM
        )
        self._state = after.state
        decoded, token_B, count_B, done_B = jax.device_get((decoded, *after[1:]))
        self._token_B, self._count_B = np.array(token_B), np.array(count_B)
        self._done_B = np.array(done_B)
        slots = []
        for slot, count in enumerate(decoded.taken_B.tolist()):
            tokens_T = decoded.tokens_BC[slot, :count]
            if scored:
                reported = (decoded.logp_BC, decoded.top_logp_BCN, decoded.top_tokens_BCN)
                scores = token_scores(tokens_T, *(array[slot] for array in reported))
            else:
                scores = [TokenScore(token_id=id, logprob=None, top=()) for id in tokens_T.tolist()]
            slots.append(SlotTokens(scores, bool(self._done_B[slot])))
        return slots

    def warm_up(self, *, constrained: bool) -> None:
        """Compile all that any request can need, and hold as many states of prompts as there can
        ever be: what does not fit into the device's memory shows now."""
        self._programs.warm_up(
            lambda: self._decode_state(self._programs.fresh(self.size)),
            self._options,
            constrained=constrained,
        )
        jax.block_until_ready([self._programs.fresh() for _ in range(self.size)])

    def _decode_state(self, state: State) -> DecodeState:
        return DecodeState(state, self._token_B, self._count_B, self._done_B)  # type: ignore[arg-type]
