# SPDX-License-Identifier: Apache-2.0
"""What is replayed follows from the seed and the place, and memory has an end."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from eval.dynamic.config import ReplayConfig
from eval.dynamic.replay import StreamReplay, TextReplay, make_replay
from recurrentgemma.errors import UserError
from tests.eval.dynamic.small import PLAIN

OF_STREAM = dataclasses.replace(PLAIN, replay=ReplayConfig(rows=2, capacity=4))
OF_TEXT = dataclasses.replace(PLAIN, replay=ReplayConfig(rows=2, of="text"))


def segment(number: int) -> np.ndarray:
    return np.full(9, number, np.int32)


def test_earlier_segments_are_replayed_each_alike():
    replay, seen = StreamReplay(OF_STREAM), Counter()
    for number in range(400):
        rows = replay.next(segment(number))
        assert len(rows) == min(2, number)
        assert all(row[0] < number for row in rows)
        assert len({int(row[0]) for row in rows}) == len(rows)
        seen.update(int(row[0]) // 100 for row in rows if number >= 300)
    assert replay.arrays()["ids"].shape == (4, 9)
    assert min(seen[0], seen[1]) > 0  # early ones are not driven out by later ones
    replay.restart()
    assert replay.next(segment(1)) == []


@pytest.mark.parametrize("kind", ["stream", "text"])
def test_it_goes_on_where_it_was(kind):
    texts = [np.arange(40), np.arange(100, 140)]

    def make():
        return StreamReplay(OF_STREAM) if kind == "stream" else TextReplay(OF_TEXT, texts)

    replay = make()
    for number in range(7):
        replay.next(segment(number))
    other = make()
    other.restore({name: array.copy() for name, array in replay.arrays().items()})
    for number in range(7, 12):
        for one, same in zip(
            replay.next(segment(number)), other.next(segment(number)), strict=True
        ):
            np.testing.assert_array_equal(one, same)


def test_places_of_a_text():
    replay = TextReplay(OF_TEXT, [np.arange(40), np.arange(3), np.array([7])])
    rows = [row for number in range(30) for row in replay.next(segment(number))]
    assert all((np.diff(row) == 1).all() and len(row) in (9, 3) for row in rows)
    assert len({int(row[0]) for row in rows}) > 10


def test_what_does_not_fit_is_refused():
    assert make_replay(PLAIN, None) is None
    with pytest.raises(UserError, match="give the text to replay"):
        make_replay(OF_TEXT, None)
    with pytest.raises(UserError, match="has no effect without"):
        make_replay(OF_STREAM, [np.arange(9)])
    with pytest.raises(UserError, match="no text to replay"):
        make_replay(OF_TEXT, [np.arange(1)])
