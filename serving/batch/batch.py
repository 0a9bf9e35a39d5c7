# SPDX-License-Identifier: Apache-2.0
"""A batch: what is not answered yet is given to an answerer, as fast as it takes it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from serving.batch.answerer import Response
from serving.batch.journal import Journal
from serving.batch.lines import Line, Requests


class Takes(Protocol):
    """What a batch needs of whoever answers: one engine (Answerer), or many."""

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """Of its model (eval.options.identity); None as long as no engine has begun."""
        ...

    @property
    def room(self) -> bool: ...
    @property
    def busy(self) -> bool: ...
    def take(self, line: Line) -> None: ...
    def step(self) -> list[Response]: ...


def answer_all(
    requests: Requests,
    journal: Journal,
    answerer: Takes,
    *,
    answered: Callable[[], None] = lambda: None,
) -> None:
    """Answer what the journal has no answer of. answered: called after each that it gets. Raises
    UserError: what the journal has is of another model."""
    left = (line for line in requests if line.custom_id not in journal.done)
    more = True
    while more or answerer.busy:
        if answerer.identity is not None:
            journal.hold_to(answerer.identity)
        while more and answerer.room:
            line = next(left, None)
            if line is None:
                more = False
            else:
                answerer.take(line)
        for response in answerer.step():
            journal.add(response)
            answered()
