# SPDX-License-Identifier: Apache-2.0
"""Tasks of the lm-evaluation-harness by a model that learns from what it reads, as dynamic
evaluation does: of a context before its answers, of a document while it is scored.

Every request begins with the checkpoint's parameters, so no answer depends on what was asked before
it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from eval.dynamic.adapter import OnlineAdapter
from eval.dynamic.config import DynamicConfig
from eval.dynamic.statistics import Statistics
from eval.tasks.continuations import Continuation, Ids
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.generation.session import Session


class Adapting:
    """A Reader of harness.py. Raises UserError as OnlineAdapter does, and for parameters that are
    not reset."""

    def __init__(
        self, lm: LanguageModel, choices: DynamicConfig, *, statistics: Statistics | None = None
    ):
        if not choices.reset_parameters:
            raise UserError(
                "reset_parameters=False: a task's requests have no order, so each begins with the "
                "checkpoint's parameters"
            )
        self._adapter = OnlineAdapter(lm, choices, statistics=statistics)

    def score(
        self, pairs: Sequence[tuple[Ids, Ids]], progress: Callable[[int], None]
    ) -> list[Continuation]:
        by_context: dict[tuple[int, ...], list[int]] = {}
        for index, (context, _) in enumerate(pairs):
            by_context.setdefault(tuple(context), []).append(index)
        scored: dict[int, Continuation] = {}
        for context, indices in by_context.items():
            session = self._after(context)
            for index in indices:
                scored[index] = _continuation(session, list(pairs[index][1]))
            progress(len(indices))
        return [scored[index] for index in range(len(pairs))]

    def score_documents(
        self, documents: Sequence[Ids], progress: Callable[[int], None]
    ) -> list[float]:
        nats = []
        for ids in documents:
            self._adapter.start()
            parts = (self._adapter.feed(list(ids)), self._adapter.flush())
            nats.append(float(sum(part.sum(dtype=np.float64) for part in parts)))
            progress(1)
        return nats

    def complete(self, prompts: Sequence[Ids], samplings: Sequence[Sampling]) -> list[str]:
        return [
            self._after(prompt).complete(sampling=sampling).text
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]

    def _after(self, context: Ids) -> Session:
        """Where a context ends, with parameters that have learned from it."""
        self._adapter.start()
        self._adapter.feed(list(context))
        self._adapter.flush()
        return self._adapter.session()


def _continuation(session: Session, ids: list[int]) -> Continuation:
    if not ids:
        return Continuation(np.zeros(0, np.float32), True)
    greedy = session.fork().complete(sampling=Sampling(max_tokens=len(ids))).tokens
    return Continuation(session.score(ids), greedy == ids)
