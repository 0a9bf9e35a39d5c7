# SPDX-License-Identifier: Apache-2.0
"""The batch that is decoded: a state for each slot on the device, the rest of a slot on the host.

Slots share nothing. What a slot held before is gone when another state is put into it.

B slots, S stop tokens, C tokens of one dispatch, M 32-bit words of a bit a token, N reported
likeliest tokens.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from recurrentgemma.adapter_bank import NONE
from recurrentgemma.generation.decode import DecodeOptions, DecodeState, check_allowed
from recurrentgemma.generation.draw import sampling_arrays, stop_array
from recurrentgemma.generation.logit_changes import LogitChanges, logit_changes, no_changes
from recurrentgemma.generation.sampling import MAX_STOP_TOKENS, Sampling
from recurrentgemma.state import State
from serving.engine.programs import Programs
from serving.engine.request import TokenScore, token_scores


class SlotTokens(NamedTuple):
    """What one dispatch has generated in one slot."""

    scores: list[TokenScore]  # of every token; log-probabilities where `scored`
    done: bool  # it ended with a stop token, or for its length


class Slots:
    """`size` states, decoded together. Everything about a slot but its state is the host's, and
    what it changes in the logits.

    stop_ids: the tokenizer's tokens that end an answer.
    constrained: whether logits may be changed and tokens be allowed, which is a program of its own
      that costs nothing where nobody asks for it.
    """

    def __init__(
        self, programs: Programs, size: int, *, stop_ids: tuple[int, ...], constrained: bool
    ):
        self.size = size
        self._programs = programs
        self._stop_ids = stop_ids
        self._state = programs.fresh(size)
        self._token_B = np.zeros(size, np.int32)
        self._count_B = np.zeros(size, np.int32)
        self._done_B = np.ones(size, np.bool_)
        self._place_B = np.full(size, NONE, np.int32)  # of each slot's adapter
        self._options = DecodeOptions(
            sampling_arrays([Sampling(seed=0)] * size),
            self._stops([Sampling()] * size),
            np.ones(size, np.int32),
        )
        self._changes = (
            programs.on_device(no_changes(size, programs.vocab_size)) if constrained else None
        )
        self._counts_BV = self._no_counts() if constrained else None
        self._changing: set[int] = set()  # slots that change their logits
        self._everything_BM = np.full((size, self._words), 2**32 - 1, np.uint32)

    def put(
        self,
        slot: int,
        state: State,
        prompt: Sequence[int] | np.ndarray,
        sampling: Sampling,
        *,
        place: int = NONE,
        count: int = 0,
    ) -> None:
        """Begin to decode in a slot, with the prompt's last token; `state` is that of all tokens
        before it, which is kept as it is. place: of its adapter. count: tokens that it
        has generated, the last of which stands in the prompt's place."""
        self._state = self._programs.insert(self._state, slot, state)
        if sampling.changes_logits:
            changes = logit_changes([sampling], [prompt], self._programs.vocab_size)  # type: ignore[list-item]
            assert changes is not None
            self._set_changes(slot, changes)
            self._changing.add(slot)
        self._options.stop_BS[slot] = self._stops([sampling])[0]
        self._token_B[slot] = prompt[-1]
        self._count_B[slot] = count
        self._done_B[slot] = False
        self._place_B[slot] = place
        self._options.max_tokens_B[slot] = sampling.max_tokens
        for all_B, one_1 in zip(self._options.sampling, sampling_arrays([sampling]), strict=True):
            all_B[slot] = one_1[0]

    def clear(self, slot: int) -> None:
        """End a slot; it is decoded along, for nobody, until another state is put into it."""
        self._done_B[slot] = True
        self._place_B[slot] = NONE
        self._options.sampling.temperature_B[slot] = 0  # a slot that samples makes all pay for it
        if slot in self._changing:
            self._set_changes(slot, no_changes(1, self._programs.vocab_size))
            self._changing.remove(slot)

    def decode(
        self, steps: int, *, scored: bool, allowed: Mapping[int, np.ndarray] | None = None
    ) -> list[SlotTokens]:
        """Up to `steps` more tokens in each slot that is not done.

        scored: with log-probabilities.
        allowed: slot -> bits of the tokens that may come next there, and in other slots any; needs
          steps = 1.
        """
        options, counts_BV, allowed_BM = self._options, None, None
        if allowed or self._changing:
            options = options._replace(changes=self._changes)
            counts_BV, allowed_BM = self._counts_BV, self._everything_BM
        if allowed:
            allowed_BM = self._everything_BM.copy()
            for slot, allowed_M in allowed.items():
                allowed_BM[slot] = allowed_M
            check_allowed(allowed_BM, steps, self.size, self._programs.vocab_size)
        before = self._decode_state(self._state, counts_BV)
        after, decoded = self._programs.decode(
            before,
            options,
            steps,
            scored=scored,
            place_B=self._place_B,
            allowed_BM=allowed_BM,
        )
        self._state = after.state
        if after.counts_BV is not None:
            self._counts_BV = after.counts_BV
        decoded, token_B, count_B, done_B = jax.device_get((decoded, *after[1:4]))
        self._token_B, self._count_B = np.array(token_B), np.array(count_B)
        self._done_B = np.array(done_B)
        slots = []
        for slot, count in enumerate(decoded.taken_B.tolist()):
            tokens_T = decoded.tokens_BC[slot, :count]
            if scored:
                reported = (decoded.logp_BC, decoded.top_logp_BCN, decoded.top_tokens_BCN)
                scores = token_scores(tokens_T, *(array[slot] for array in reported))
            else:
                scores = [TokenScore(id, None, ()) for id in tokens_T.tolist()]
            slots.append(SlotTokens(scores, bool(self._done_B[slot])))
        return slots

    def state_of(self, slot: int) -> State:
        """Of all tokens but the last one."""
        return self._programs.take(self._state, slot)

    def token_seconds(self, steps: int = 8) -> float:
        """What a token of all slots takes, once it is compiled; nobody may be decoded."""
        for slot in range(self.size):
            self.put(slot, self._programs.empty, [0], Sampling(seed=0, max_tokens=2**30))
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            self.decode(steps, scored=False)
            seconds.append((time.perf_counter() - began) / steps)
        for slot in range(self.size):
            self.clear(slot)
        return min(seconds)

    def warm_up(self) -> None:
        """Compile all that any request can need, and hold as many states of prompts as there can
        ever be: what does not fit into the device's memory shows now."""
        programs = self._programs

        def insert() -> Any:
            return programs.insert(programs.fresh(self.size), 0, programs.empty)

        def decode(scored: bool, constrained: bool) -> Any:
            options, counts_BV, allowed_BM = self._options, None, None
            if constrained:
                options = options._replace(changes=self._changes)
                counts_BV, allowed_BM = self._no_counts(), self._everything_BM
            before = self._decode_state(programs.fresh(self.size), counts_BV)
            return programs.decode(
                before, options, 1, scored=scored, place_B=self._place_B, allowed_BM=allowed_BM
            )

        kinds = (False, True) if self._changes is not None else (False,)
        calls = [insert, *(partial(decode, s, kind) for s in (False, True) for kind in kinds)]
        programs.warm_up(calls)
        if self._changes is not None:
            self._set_changes(0, no_changes(1, programs.vocab_size))
        jax.block_until_ready([programs.fresh() for _ in range(self.size)])

    @property
    def _words(self) -> int:
        return -(-self._programs.vocab_size // 32)

    def _stops(self, samplings: Sequence[Sampling]) -> np.ndarray:
        """Of each slot; as wide as they can get, which is part of the programs."""
        width = max(1, len(self._stop_ids) + MAX_STOP_TOKENS)
        return stop_array(samplings, self._stop_ids, width=width)

    def _no_counts(self) -> jax.Array:
        zeros_BV = np.zeros((self.size, self._programs.vocab_size), np.int32)
        return self._programs.on_device(zeros_BV)

    def _set_changes(self, slot: int, one: LogitChanges) -> None:
        assert self._changes is not None
        assert self._counts_BV is not None
        self._changes, self._counts_BV = self._programs.change(
            self._changes, self._counts_BV, slot, one
        )

    def _decode_state(self, state: State, counts_BV: Any) -> DecodeState:
        return DecodeState(state, self._token_B, self._count_B, self._done_B, counts_BV)  # type: ignore[arg-type]
