# SPDX-License-Identifier: Apache-2.0
"""Every target of every document is read once, by whatever number of streams."""

import dataclasses

import numpy as np
import pytest

from eval.dynamic.config import ReplayConfig
from eval.dynamic.feed import Feed
from eval.dynamic.replay import StreamReplay
from recurrentgemma.errors import UserError
from tests.eval.dynamic.small import MQA, PLAIN, documents, language_model

DOCUMENTS = documents(50, 1, 3, 33, 20)
REPLAYING = dataclasses.replace(PLAIN, replay=ReplayConfig(rows=2, capacity=4))


def feed(streams: int, choices=PLAIN) -> Feed:
    replays: list = [StreamReplay(choices) if choices.replay.rows else None for _ in range(streams)]
    return Feed(language_model(), DOCUMENTS, choices, replays)


@pytest.mark.parametrize("streams", [1, 2, 7])
def test_every_target_once(streams):
    read, running = feed(streams), {}
    targets = {number: [] for number in range(len(DOCUMENTS))}
    while not read.finished:
        read.narrow(1)
        fed = read.next()
        assert fed.segment.tokens_T.shape == (read.count, 8)
        for turn in fed.turns:
            assert turn.starts == (turn.first == 1) == bool(fed.starts_S[turn.stream])
            targets[turn.number] += fed.segment.targets_M[turn.stream, : turn.length].tolist()
            running[turn.number] = not turn.ends
    assert not any(running.values())
    for number, ids in targets.items():
        assert ids == DOCUMENTS.read(number).document.ids[1:].tolist()


def test_streams_that_have_ended_are_left_behind():
    read, counts = feed(4), []
    while not read.finished:
        read.narrow(1)
        counts.append(len(read.next().segment.tokens_T))
    assert counts == [4, 4, 4, 2, 1, 1, 1]  # documents of 49, 32, 19 and 2 targets
    read = feed(4)
    for _ in range(5):
        read.next()
    assert read.narrow(4) is None
    assert read.narrow(2) == [0, 1]


def test_it_goes_on_where_it_was():
    read, other = feed(2, REPLAYING), feed(2, REPLAYING)
    for _ in range(5):
        read.next()
    other.restore(*read.where())
    while not read.finished:
        one, same = read.next(), other.next()
        assert [turn[:4] for turn in one.turns] == [turn[:4] for turn in same.turns]
        assert one.replayed is not None
        assert same.replayed is not None
        for a, b in zip(one.segment + one.replayed, same.segment + same.replayed, strict=True):
            np.testing.assert_array_equal(a, b)
    assert other.finished


def test_earlier_documents_are_replayed_only_where_they_were_learned():
    """Of the first segment of each document in a stream, whether something is replayed."""
    for reset, expected in ((True, [False] * 4), (False, [False, True, True, True])):
        read = feed(1, dataclasses.replace(REPLAYING, reset_parameters=reset))
        first = []
        while not read.finished:
            fed = read.next()
            if fed.starts_S[0]:
                assert fed.replayed is not None
                first.append(bool(fed.replayed.weights_RL.any()))
        assert first == expected


def test_a_document_that_is_too_long_is_named():
    with pytest.raises(UserError, match="document 0: 50 tokens are more than context_length=32"):
        Feed(language_model(MQA), DOCUMENTS, PLAIN, [None])
