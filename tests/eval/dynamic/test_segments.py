# SPDX-License-Identifier: Apache-2.0
"""Segments: every target is scored once, by what stands before it, however they are cut."""

import dataclasses

import numpy as np
import pytest

from eval.dynamic.config import DynamicConfig
from eval.dynamic.segments import cut, nothing, replayed, stacked
from tests.eval.dynamic.small import PLAIN, RICH

IDS = np.arange(100, 130)


def choices(state: str, overlap: int, learn: bool) -> DynamicConfig:
    return dataclasses.replace(PLAIN, state=state, overlap=overlap, learn_overlap=learn)


@pytest.mark.parametrize("state", ["carry", "reset"])
@pytest.mark.parametrize(("overlap", "learn"), [(0, False), (3, False), (3, True), (11, True)])
def test_what_is_scored_and_what_is_read(state, overlap, learn):
    chosen = choices(state, overlap, learn)
    start = 0
    while start < len(IDS) - 1:
        length = min(8, len(IDS) - 1 - start) if start != 8 else 5  # a short one in between, too
        segment = cut(chosen, IDS, start, length)
        np.testing.assert_array_equal(
            segment.targets_M[:length], IDS[start + 1 : start + length + 1]
        )
        tokens = np.asarray(segment.tokens_T)
        np.testing.assert_array_equal(tokens[segment.index_M[:length]], IDS[start : start + length])
        real = np.asarray(segment.positions_T) >= 0
        before = min(overlap, start)
        np.testing.assert_array_equal(tokens[real], IDS[start - before : start + length])
        first = 0 if state == "reset" else start - before
        np.testing.assert_array_equal(segment.positions_T[real], first + np.arange(before + length))
        learned = segment.weights_M > 0
        assert learned.sum() == length + before * learn
        assert segment.weights_M[learned] == pytest.approx(1 / chosen.targets)
        np.testing.assert_array_equal(
            tokens[segment.index_M[learned]] + 1, segment.targets_M[learned]
        )
        start += length


def test_the_state_is_kept_before_the_overlap():
    """The first L of the T tokens are those that lead to the next segment's overlap."""
    segment = cut(choices("carry", 3, False), IDS, 8, 8)
    assert segment.tokens_T[:8].tolist() == IDS[5:13].tolist()
    assert segment.tokens_T[8:].tolist() == IDS[13:16].tolist()
    short = cut(choices("carry", 3, False), IDS, 8, 2)
    assert short.tokens_T[:2].tolist() == IDS[5:7].tolist()
    assert short.tokens_T[8:].tolist() == IDS[7:10].tolist()
    assert (short.positions_T[2:8] == -1).all()


def test_of_a_part_of_the_document():
    whole = cut(RICH, IDS, 12, 8)
    part = cut(RICH, IDS[9:], 3, 8, offset=9)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loss_mask_takes_targets_out_of_the_loss_and_not_out_of_the_scores():
    learned = np.arange(30) % 2 == 0
    segment = cut(PLAIN, IDS, 8, 8, learned=learned)
    np.testing.assert_array_equal(segment.weights_M > 0, learned[9:17])
    np.testing.assert_array_equal(segment.targets_M, IDS[9:17])


def test_a_stream_that_has_ended_and_rows_to_replay():
    empty = nothing(RICH)
    assert (empty.positions_T == -1).all()
    assert not empty.weights_M.any()
    chosen = DynamicConfig.from_json(
        PLAIN.to_json() | {"replay": {"rows": 2, "weight": 3.0, "of": "stream", "capacity": 4}}
    )
    rows = replayed(chosen, [IDS[:5]])
    assert rows.tokens_RL[0, :4].tolist() == IDS[:4].tolist()
    assert rows.targets_RL[0, :4].tolist() == IDS[1:5].tolist()
    assert (rows.positions_RL[1] == -1).all()
    assert rows.weights_RL.sum() == pytest.approx(4 * 3.0 / 16)
    both = stacked([empty, cut(RICH, IDS, 0, 8)])
    assert both.tokens_T.shape == (2, 11)
