"""Whose turn it is: the first in line and the one with the least left, by turns."""

from types import SimpleNamespace

from serving.engine.prompt_turns import PromptTurns


class Reader:
    """Of `chunks` chunks."""

    def __init__(self, chunks: int):
        self.tokens_left = chunks

    @property
    def finished(self) -> bool:
        return self.tokens_left == 0

    def advance(self) -> None:
        self.tokens_left -= 1


def order(arrivals: dict[str, tuple[int, int]]) -> list[str]:
    """The names in the order in which they finish, each with the number of chunks read by then;
    arrivals[name] = (before which chunk it arrives, its own chunks)."""
    turns, finished, chunk = PromptTurns(), [], 0
    while len(finished) < len(arrivals):
        for name, (when, chunks) in arrivals.items():
            if when == chunk:
                turns.add(SimpleNamespace(id=name), Reader(chunks))  # type: ignore[arg-type]
        chunk += 1
        prompt = turns.advance() if len(turns) else None
        if prompt is not None:
            finished.append(f"{prompt[0].id} {chunk}")
    return finished


def test_a_short_prompt_waits_for_one_chunk_for_each_of_its_own():
    assert order({"long": (0, 1000), "short": (10, 4)}) == ["short 17", "long 1004"]
    assert order({"long": (0, 1000), "short": (11, 4)}) == ["short 19", "long 1004"]


def test_the_first_in_line_gets_every_second_chunk():
    shorts = {f"short{i}": (i, 1) for i in range(1, 60)}
    finished = order({"long": (0, 20)} | shorts)
    assert "long 37" in finished  # of its last chunks each is the least left, too


def test_of_equals_the_first_is_read_first():
    assert order({"a": (0, 5), "b": (0, 5), "c": (0, 5)}) == ["a 5", "b 10", "c 15"]


def test_a_prompt_of_one_token_has_nothing_to_read():
    assert order({"a": (0, 3), "one": (1, 0)}) == ["one 3", "a 4"]


def test_removing():
    turns = PromptTurns()
    for name in ("a", "b"):
        turns.add(SimpleNamespace(id=name), Reader(3))  # type: ignore[arg-type]
    turns.advance()
    assert turns.remove("a")  # type: ignore[arg-type]
    assert not turns.remove("a")  # type: ignore[arg-type]
    assert len(turns) == 1
    while (prompt := turns.advance()) is None:
        pass
    assert prompt[0].id == "b"
    assert len(turns) == 0
