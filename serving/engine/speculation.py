# SPDX-License-Identifier: Apache-2.0
"""Slots that guess: several tokens a call where guesses are right, and plain decoding where not.

Each slot of the batch has a second place here, with a state of its own. While its sequence guesses,
it stands here and is verified (verification.py) in every step; while it does not, it stands in the
slots that are decoded. Which of the two follows from its own request alone: how many tokens its own
last verifications gave, and how many tokens ago it gave up. So the chunks in which it is read do,
too, and its answer has the same bits whatever else the server does.

    guesses: RECENT verifications, then as long as the last RECENT gave at least `least` on average
    pauses:  PAUSE tokens, twice as many each time, at most LONGEST_PAUSE; then it guesses again
"""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np

from recurrentgemma.adapter_bank import NONE
from recurrentgemma.generation.draw import sampling_arrays, stop_array
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.state import State
from serving.engine.programs import Programs
from serving.engine.request import GenerationRequest, TokenScore, token_scores
from serving.engine.slots import SlotTokens
from serving.engine.verification import Chunk, Verifier

RECENT = 6
PAUSE, LONGEST_PAUSE = 32, 512


class Proposer(Protocol):
    """Guesses what comes next in each slot."""

    def begin(self, slot: int, tokens: Sequence[int], sampling: Sampling) -> None:
        """A sequence begins to guess, or begins again, after these tokens."""
        ...

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """It has these tokens, too."""
        ...

    def next(self, most: dict[int, int], counts: dict[int, int]) -> dict[int, list[int]]:
        """Up to most[slot] tokens for each of these slots, whose answers have counts[slot]."""
        ...

    def warm_up(self) -> None: ...


@dataclasses.dataclass
class Guessing:
    """A sequence that may guess."""

    sampling: Sampling
    prompt: np.ndarray
    place: int
    tokens: list[int]  # generated
    unread: list[int]
    recent: deque[int]
    pause: int = PAUSE
    again_at: int = 0  # tokens generated when it guesses again, while it rests
    on: bool = True
    moves: bool = False  # it has given up, and its state is still here


class Speculation:
    """For the slots of an engine. least: tokens that a verification must give, on average; None:
    as many as it costs tokens of plain decoding, measured by warm_up."""

    def __init__(
        self,
        programs: Programs,
        size: int,
        proposer: Proposer,
        *,
        stop_ids: tuple[int, ...],
        width: int = 8,
        least: float | None = None,
    ):
        self.size, self.width, self.least = size, width, least
        self.verified = self.accepted = self.proposed = 0  # calls of a slot, tokens
        self._programs, self._proposer, self._stop_ids = programs, proposer, stop_ids
        self._verifier = Verifier(programs, width=width)
        self._state = programs.fresh(size)
        self._sampling = sampling_arrays([Sampling(seed=0)] * size)
        self._place_B = np.full(size, NONE, np.int32)
        self._slots: dict[int, Guessing] = {}

    def warm_up(self, token_seconds: float) -> None:
        """Compile all of it, and measure what a verification costs in tokens of plain decoding,
        each of which takes all slots so many seconds. Nobody may be guessing."""
        self._proposer.warm_up()
        self._programs.take(self._state, 0)
        sampling = Sampling(seed=0, max_tokens=2**30)
        for slot in range(self.size):
            self.put(slot, self._programs.empty, [0], sampling)
        seconds = []
        for scored in (True, False, False, False, False):
            began = time.perf_counter()
            self.step(scored=scored)
            seconds.append(time.perf_counter() - began)
        for slot in range(self.size):
            self.clear(slot)
        if self.least is None:  # rounded up, so that the same server finds the same
            self.least = math.ceil(2 * min(seconds[2:]) / token_seconds) / 2
        self.verified = self.accepted = self.proposed = 0

    @property
    def cost(self) -> str:
        """What it costs, and whether it is used, for whoever started the server."""
        text = f"a verification of {self.width} tokens costs {self.least:g} of plain decoding"
        return text if self.pays else f"{text}: nothing is guessed here"

    @property
    def pays(self) -> bool:
        """Whether a verification costs less than the most tokens that it can give."""
        return self.least is not None and self.least < self.width

    def takes(self, request: GenerationRequest) -> bool:
        """Whether its answer may be guessed: neither constrained nor with changed logits, which
        depend on every token before."""
        return self.pays and not (request.constraint or request.sampling.changes_logits)

    @property
    def guessing(self) -> list[int]:
        """Slots that stand here."""
        return [slot for slot, guessing in self._slots.items() if guessing.on]

    def put(
        self,
        slot: int,
        state: State,
        prompt: Sequence[int] | np.ndarray,
        sampling: Sampling,
        *,
        place: int = NONE,
    ) -> None:
        """As Slots.put: it begins to guess."""
        ids = np.asarray(prompt, np.int32)
        recent: deque[int] = deque(maxlen=RECENT)
        self._slots[slot] = Guessing(sampling, ids, place, [], [int(ids[-1])], recent)
        self._begin(slot, state)

    def clear(self, slot: int) -> None:
        self._slots.pop(slot, None)
        self._sampling.temperature_B[slot] = 0
        self._place_B[slot] = NONE

    def decoded(self, slot: int, tokens: Sequence[int]) -> None:
        """A sequence that rests has these tokens by plain decoding."""
        if slot in self._slots:
            self._slots[slot].tokens += tokens

    def pause_left(self, slot: int) -> int | None:
        """In how many tokens a sequence guesses again; None where it never rests or guesses."""
        guessing = self._slots.get(slot)
        if guessing is None or guessing.on:
            return None
        return guessing.again_at - len(guessing.tokens)

    def gave_up(self, slot: int) -> bool:
        """Whether its last verification was its last for now, and its state is still here."""
        return slot in self._slots and self._slots[slot].moves

    def pause(self, slot: int) -> tuple[State, int]:
        """The state of all its tokens but the last, and that one; it is no longer here."""
        guessing = self._slots[slot]
        guessing.moves = False
        self._sampling.temperature_B[slot] = 0
        return self._programs.take(self._state, slot), guessing.tokens[-1]

    def resume(self, slot: int, state: State) -> None:
        """It guesses again; the state is that of all tokens but the last."""
        guessing = self._slots[slot]
        guessing.on = True
        guessing.recent.clear()
        guessing.unread = [guessing.tokens[-1]]
        self._begin(slot, state)

    def _begin(self, slot: int, state: State) -> None:
        guessing = self._slots[slot]
        self._state = self._programs.insert(self._state, slot, state)
        arrays = sampling_arrays([guessing.sampling])
        for all_B, one_1 in zip(self._sampling, arrays, strict=True):
            all_B[slot] = one_1[0]
        self._place_B[slot] = guessing.place
        self._proposer.begin(slot, [*guessing.prompt.tolist(), *guessing.tokens], guessing.sampling)

    def step(self, *, scored: bool) -> dict[int, SlotTokens]:
        """Verify what each slot here guesses: one token or more of each."""
        slots = {slot: self._slots[slot] for slot in self.guessing}
        most = {
            slot: self.width - len(guessing.unread)
            for slot, guessing in slots.items()
            if not self._gives_up(guessing)
        }
        counts = {slot: len(slots[slot].tokens) for slot in most}
        proposals = self._proposer.next(most, counts)
        chunk = self._chunk(slots, proposals)
        self._state, drawn = self._verifier(
            self._state, chunk, self._sampling, place_B=self._place_B, scored=scored
        )
        drawn = jax.device_get(drawn)
        told = {}
        for slot, guessing in slots.items():
            first, accepted = len(guessing.unread) - 1, int(drawn.accepted_B[slot])
            part = slice(first, first + accepted + 1)
            tokens_T = drawn.tokens_BW[slot, part]
            if scored:
                arrays = (drawn.logp_BW, drawn.top_logp_BWN, drawn.top_tokens_BWN)
                scores = token_scores(tokens_T, *(array[slot, part] for array in arrays))
            else:
                scores = [TokenScore(id, None, ()) for id in tokens_T.tolist()]
            told[slot] = self._taken(slot, scores, len(proposals.get(slot, ())), accepted)
        return told

    def _chunk(self, slots: dict[int, Guessing], proposals: dict[int, list[int]]) -> Chunk:
        chunk = Chunk(
            np.zeros((self.size, self.width), np.int32),
            *(np.zeros(self.size, np.int32) for _ in range(3)),
        )
        for slot, guessing in slots.items():
            tokens = [*guessing.unread, *proposals.get(slot, ())]
            chunk.tokens_BW[slot, : len(tokens)] = tokens
            chunk.lengths_B[slot], chunk.unread_B[slot] = len(tokens), len(guessing.unread)
            chunk.count_B[slot] = len(guessing.tokens)
        return chunk

    def _taken(
        self, slot: int, scores: list[TokenScore], proposed: int, accepted: int
    ) -> SlotTokens:
        guessing = self._slots[slot]
        gave_up = self._gives_up(guessing)
        tokens = [score.token_id for score in scores]
        self.verified += 1
        self.proposed, self.accepted = self.proposed + proposed, self.accepted + accepted
        guessing.recent.append(len(tokens))
        read_all = accepted == proposed
        guessing.unread = [tokens[-1]] if read_all else [*guessing.unread, *tokens]
        stops = set(stop_array([guessing.sampling], self._stop_ids)[0].tolist())
        room = guessing.sampling.max_tokens - len(guessing.tokens)
        end = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens) + 1)
        taken = min(len(tokens), end, room)
        done = end <= len(tokens) or room <= len(tokens)
        guessing.tokens += tokens[:taken]
        self._proposer.extend(slot, tokens[:taken])
        if gave_up and not done:  # all is read but the last token: it can be decoded
            guessing.on, guessing.moves = False, True
            guessing.again_at = len(guessing.tokens) + guessing.pause
            guessing.pause = min(2 * guessing.pause, LONGEST_PAUSE)
        return SlotTokens(scores[:taken], done)

    def _gives_up(self, guessing: Guessing) -> bool:
        """Whether the next verification reads what is unread and proposes nothing."""
        if len(guessing.recent) < RECENT or self.least is None:
            return False
        return sum(guessing.recent) < self.least * RECENT
