"""What is left of a batch is given to whoever answers, as fast as it takes it."""

import pytest

from recurrentgemma.errors import UserError
from serving.batch.answerer import Response
from serving.batch.batch import answer_all
from serving.batch.journal import open_journal
from serving.batch.lines import Line, Requests


class TwoAtOnce:
    """Answers the latest of its two lines first."""

    def __init__(self, weights: str = "one") -> None:
        self.taken: list[str] = []
        self._lines: list[Line] = []
        self.identity = {"weights": weights}

    @property
    def room(self) -> bool:
        return len(self._lines) < 2

    @property
    def busy(self) -> bool:
        return bool(self._lines)

    def take(self, line: Line) -> None:
        self._lines.append(line)
        self.taken.append(line.custom_id)

    def step(self) -> list[Response]:
        return [Response(self._lines.pop(), 200, {})] if self._lines else []


def test_only_what_is_left_is_answered(asked, line, tmp_path):
    requests = Requests(asked([line(name, {}) for name in "abcde"]))
    out, calls = tmp_path / "out.jsonl", []
    with open_journal(out, requests, {}) as journal:
        journal.add(Response(next(iter(requests)), 200, {}))
        answerer = TwoAtOnce()
        answer_all(requests, journal, answerer, answered=lambda: calls.append(1))
        assert answerer.taken == list("bcde")
        assert list(journal.done) == list("acdeb")
        assert len(calls) == 4
        answer_all(requests, journal, TwoAtOnce(), answered=lambda: calls.append(1))
        assert len(calls) == 4


def test_another_model_does_not_go_on(asked, line, tmp_path):
    """A run that was trained anew, say: its path tells nothing."""
    requests = Requests(asked([line(name, {}) for name in "ab"]))
    out = tmp_path / "out.jsonl"
    with open_journal(out, requests, {}) as journal:
        journal.hold_to({"weights": "one"})
        journal.add(Response(next(iter(requests)), 200, {}))
    other = TwoAtOnce("another")
    with (
        pytest.raises(UserError, match=r"begun with another model \(weights\)"),
        open_journal(out, requests, {}) as journal,
    ):
        answer_all(requests, journal, other)
    assert not other.taken
    with open_journal(out, requests, {}) as journal:
        answer_all(requests, journal, TwoAtOnce())
        assert list(journal.done) == ["a", "b"]
