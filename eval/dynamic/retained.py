# SPDX-License-Identifier: Apache-2.0
"""Retention: what a model that adapts forgets of what it was trained on.

It is measured as the score of held-out text of the original domain with the adapted parameters,
beside the score with the checkpoint's. Nothing is learned meanwhile.
"""

from typing import NamedTuple

from eval.documents import Documents
from eval.dynamic.learner import Learner
from eval.perplexity import Score, score_documents
from training.data.document import Document


class Retained(NamedTuple):
    """Scores of the original domain: of the checkpoint, and after adapting."""

    before: Score
    after: Score

    @property
    def forgotten(self) -> float:
        """Bits per byte that were lost; below 0 where the adapted model is the better one."""
        return self.after.bits_per_byte - self.before.bits_per_byte


class Retention:
    """A measure on given documents, which are held in memory. most: so many tokens; 0: all.

    Raises UserError: there is nothing to score.
    """

    def __init__(self, documents: Documents, *, most: int = 0):
        self._documents: list[Document] = []
        self._bytes = tokens = 0
        for number in documents.order():
            held_out = documents.read(number)
            document, text_bytes = held_out.document, held_out.bytes
            left = most - tokens
            if most and len(document.ids) > left:
                share = left / len(document.ids)
                document, text_bytes = document.cut(0, left), round(text_bytes * share)
            self._documents.append(document)
            self._bytes += text_bytes
            tokens += len(document.ids)
            if most and tokens >= most:
                break
        self._before: Score | None = None

    def measure(self, learner: Learner, row: int) -> Retained:
        """With the parameters of one stream as they are now."""
        if self._before is None:
            self._before = self._score(learner.lm.model)
        return Retained(self._before, self._score(learner.model(row)))

    def _score(self, model) -> Score:
        return score_documents(model, self._documents, self._bytes)
