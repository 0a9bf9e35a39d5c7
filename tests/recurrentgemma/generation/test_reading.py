# SPDX-License-Identifier: Apache-2.0
"""Points: when tokens are read, in which chunks, and that a point given stays as it is."""

from typing import Any

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation import walk
from recurrentgemma.generation.reading import LOOKBACK_TOKENS, START, Point, Reader, answered
from recurrentgemma.text.pieces import HeldText
from recurrentgemma.text.tokenizer import ByteTokenizer

BOS = ByteTokenizer.bos_id


class Recorder:
    """A generator whose state is all tokens that it has read."""

    def __init__(self):
        self.lengths: list[int] = []

    def read(self, tokens, state):
        self.lengths.append(len(tokens))
        return ((*(state or ((),))[0], *tokens),)


@pytest.fixture
def generator() -> Recorder:
    return Recorder()


@pytest.fixture
def reader(generator) -> Reader:
    return Reader(generator, ByteTokenizer())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(walk, "CHUNKS", (2, 10))


def test_whole_chunks_are_read_and_the_rest_waits(reader, generator):
    ids = list(range(37))
    for size in (1, 3, 10, 11, 37):
        generator.lengths.clear()
        point = START
        for start in range(0, 37, size):
            point = reader.add_ids(point, ids[start : start + size])
        assert (point.count, point.unread) == (37, tuple(ids[30:]))
        assert point.state == (tuple(ids[:30]),)
        assert all(length % 10 == 0 for length in generator.lengths)
    ready = reader.ready(point)
    assert (ready.state, ready.unread, ready.count) == ((tuple(ids[:36]),), (36,), 37)
    assert reader.ready(ready) is not point
    assert generator.lengths[-1] == 6
    assert point.unread == tuple(ids[30:])  # as it was
    after = reader.with_after(ready)
    assert after.after == (tuple(ids),)
    assert reader.with_after(after) is after


def test_one_token_is_always_left(reader):
    point = reader.add_ids(START, list(range(10)))
    assert (point.state, len(point.unread)) == (None, 10)
    point = reader.add_ids(point, [10])
    assert (point.state, point.unread) == ((tuple(range(10)),), (10,))


def test_text_waits_until_it_must_be_tokens(reader, generator):
    point = reader.add_text(START, "Call me")
    assert (point.count, generator.lengths) == (0, [])
    assert reader.held_ids(point) == [BOS, *b"Call me"]
    ended = reader.ended(reader.add_text(point, " Ish"))
    assert ended.held == HeldText("", None)
    assert ended.context == (BOS, *b"Call me Ish")
    settled = reader.settled(point)
    assert (settled.held.text, settled.count) == (" me", 5)
    assert settled.state == ((BOS, *b"Cal"),)
    ids = reader.add_ids(point, [1, 2])
    assert ids.context == (BOS, *b"Call me", 1, 2)
    assert ids.held == HeldText("", None)
    assert reader.add_ids(point, []) is point
    assert reader.ended(ids) is ids


def test_nothing_is_nothing_to_go_on_from(reader):
    with pytest.raises(UserError, match=r"session is empty.*bos_id"):
        reader.ready(START)


def test_a_state_after_all_tokens_spares_reading_them(reader, generator):
    """As it is where a model has ended its text."""
    states: Any = (("before",), ((1, 2, 3),))
    point = Point(states[0], (1, 2, 3), 10, (1, 2, 3), HeldText("", None), after=states[1])
    more = reader.add_ids(point, [4, 5])
    assert (more.state, more.unread, more.count, more.after) == (((1, 2, 3),), (4, 5), 12, None)
    assert generator.lengths == []
    assert reader.settled(point) is point


def test_an_answer(reader):
    ready = reader.ready(reader.add_ids(START, list(range(5))))
    point = answered(ready, [7, 8], "x")
    assert (point.state, point.unread, point.count) == (ready.state, (4, 7, 8), 7)
    assert point.held == HeldText("x", None)
    assert answered(ready, list(range(100))).context == tuple(range(100 - LOOKBACK_TOKENS, 100))
