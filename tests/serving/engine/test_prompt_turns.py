"""Whose turn it is: the first in line and the one with the least left, by turns."""

from serving.engine.prompt_turns import PromptTurns


class Reading:
    """Of `chunks` chunks, in a program."""

    def __init__(self, name: str, chunks: int, size: int = 16):
        self.name, self.tokens_left, self.program = name, chunks, (size, False)


def order(arrivals: dict[str, tuple[int, int]]) -> list[str]:
    """The names in the order in which they finish, each with the number of chunks read by then;
    arrivals[name] = (before which chunk it arrives, its own chunks)."""
    turns, finished, chunk = PromptTurns(), [], 0
    while len(finished) < len(arrivals):
        for name, (when, chunks) in arrivals.items():
            if when == chunk:
                turns.add(Reading(name, chunks))
        chunk += 1
        if not len(turns):
            continue
        (reading,) = turns.next(1)
        reading.tokens_left -= 1
        if not reading.tokens_left:
            turns.remove(reading)
            finished.append(f"{reading.name} {chunk}")
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


def test_others_of_the_same_program_come_along():
    turns = PromptTurns()
    sizes = {"a": 128, "b": 16, "c": 128, "d": 128, "e": 128}
    for name, size in sizes.items():
        turns.add(Reading(name, 1 if name == "d" else 3, size))
    assert [reading.name for reading in turns.next(3)] == ["d", "a", "c"]
    assert [reading.name for reading in turns.next(3)] == ["a", "c", "d"]
    assert [reading.name for reading in turns.next(9)] == ["d", "a", "c", "e"]


def test_removing():
    turns = PromptTurns()
    readings = [Reading(name, 3) for name in "ab"]
    for reading in readings:
        turns.add(reading)
    turns.remove(readings[0])
    assert [reading.name for reading in turns] == ["b"]
    assert turns.next(2) == [readings[1]]
