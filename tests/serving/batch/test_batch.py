"""What is left of a batch is given to whoever answers, as fast as it takes it."""

from serving.batch.answerer import Response
from serving.batch.batch import answer_all
from serving.batch.journal import open_journal
from serving.batch.lines import Line, Requests


class TwoAtOnce:
    """Answers the latest of its two lines first."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self._lines: list[Line] = []

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
