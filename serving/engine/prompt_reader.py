# SPDX-License-Identifier: Apache-2.0
"""Prefill: prompts are read a chunk at a time, several of them in one call of the device, so that
other sequences go on being decoded between."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from recurrentgemma.adapter_bank import NONE
from recurrentgemma.state import State
from serving.engine.chunks import GRID, Span, next_span
from serving.engine.programs import Programs, RowChunk
from serving.engine.request import TokenScore, token_scores


class PromptReader:
    """Reads `tokens_T` but for the last token, with which decoding begins.

    state: of the first `start` tokens, a place of the grid; it is kept as it is.
    anew: the grid begins anew after so many tokens, of what a session has not read yet, so that it
      makes no difference whether they are read with the prompt or before.
    place: of the adapter in the bank.
    scored: also find the log-probability of each token but the first; then nothing is read yet.
    at_boundary: is given each place of the grid that was reached, and the state there.
    """

    def __init__(
        self,
        tokens_T: np.ndarray,
        state: State,
        *,
        start: int = 0,
        anew: int = 0,
        place: int = NONE,
        scored: bool = False,
        at_boundary: Callable[[int, State], None] = lambda position, state: None,
    ):
        assert not (scored and start), "a score that was not read"
        self.tokens_T = tokens_T
        self.start = self.position = start
        self.state = state
        self.scored, self._anew, self._place = scored, anew, place
        self.scores = [TokenScore(token_id=int(tokens_T[0]), logprob=None, top=())]
        self._at_boundary = at_boundary

    @property
    def tokens_left(self) -> int:
        return len(self.tokens_T) - 1 - self.position

    @property
    def finished(self) -> bool:
        return self.tokens_left == 0

    @property
    def span(self) -> Span:
        """What is read next."""
        length = len(self.tokens_T) - 1
        if self.position < self._anew:
            return next_span(self.position, self._anew)
        start, stop, size = next_span(self.position - self._anew, length - self._anew)
        return Span(start + self._anew, stop + self._anew, size)

    @property
    def program(self) -> tuple[int, bool]:
        """Readers of one program can be read in one call."""
        return self.span.size, self.scored

    def chunk(self) -> RowChunk:
        start, stop, _ = self.span
        targets_T = self.tokens_T[start + 1 : stop + 1] if self.scored else None
        return RowChunk(self.tokens_T[start:stop], targets_T, self.state, self._place)

    def take(self, state: State, scores: Sequence[TokenScore]) -> None:
        """What came of the chunk."""
        self.position, self.state = self.span.stop, state
        self.scores += scores
        if self.position % GRID == 0:
            self._at_boundary(self.position, state)


def advance(programs: Programs, readers: Sequence[PromptReader]) -> None:
    """Read the next chunk of each, all of one program, and wait for it."""
    (size, scored) = readers[0].program
    assert all(reader.program == (size, scored) for reader in readers)
    chunks = [reader.chunk() for reader in readers]
    states, scores = programs.read(chunks, size=size)
    logps = None if scores is None else jax.device_get(scores)
    jax.block_until_ready(states)
    for row, (reader, chunk) in enumerate(zip(readers, chunks, strict=True)):
        told: list[TokenScore] = []
        if logps is not None:
            assert chunk.targets_T is not None
            told = token_scores(chunk.targets_T, *(array[row] for array in logps))
        reader.take(states[row], told)
