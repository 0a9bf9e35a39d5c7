# SPDX-License-Identifier: Apache-2.0
"""A prompt on its way through the engine, with all sequences that begin with it."""

from collections.abc import Sequence

import numpy as np

from recurrentgemma.generation.reading import Point
from serving.engine.prompt_reader import PromptReader
from serving.engine.sequence import LiveSequence
from serving.features.adapters import ServedAdapter, place_of


class Prompt:
    """Sequences of one prompt, which is read once; each then begins with its state. Without
    sequences it is read for the cache alone. `reader`: since it is being read.

    tokens_T: all that is read, what a session has not read yet included. adapter: of its
      sequences, or what it is read with.
    """

    def __init__(
        self,
        tokens_T: np.ndarray,
        sequences: Sequence[LiveSequence],
        *,
        adapter: ServedAdapter | None = None,
    ):
        self.tokens_T = tokens_T
        self.sequences = list(sequences)
        self.adapter = sequences[0].request.adapter if sequences else adapter
        self.reader: PromptReader | None = None

    @property
    def scored(self) -> bool:
        """Whether a sequence asks for the log-probabilities of the prompt."""
        return any(sequence.request.prompt_logprobs for sequence in self.sequences)

    @property
    def before(self) -> Point | None:
        """Of the one sequence that goes on with a session."""
        return self.sequences[0].request.before if self.sequences else None

    @property
    def place(self) -> int:
        """Of its adapter."""
        return place_of(self.adapter)

    @property
    def opened(self) -> PromptReader:
        assert self.reader is not None
        return self.reader

    @property
    def tokens_left(self) -> int:
        return self.opened.tokens_left

    @property
    def program(self) -> tuple[int, bool]:
        return self.opened.program
