# SPDX-License-Identifier: Apache-2.0
"""Sums by document and position are those of each token on its own, however they were cut."""

import numpy as np
import pytest

from eval.positions import PositionSums, bucket_names, doubling
from recurrentgemma.errors import UserError


def test_edges_double():
    assert doubling(256) == (1, 32, 64, 128, 256)
    assert doubling(200) == (1, 32, 64, 128, 200)
    assert doubling(16, first=4, parts=2) == (1, 4, 6, 8, 11, 16)
    assert doubling(1) == (1,)
    assert doubling(9, first=1) == (1, 2, 4, 8, 9)
    assert bucket_names((1, 32, 2048)) == ["1 to 31", "32 to 2,047", "2,048 on"]
    with pytest.raises(UserError, match="expected 1 or more"):
        doubling(0)
    with pytest.raises(UserError, match="expected ascending ones from 1 on"):
        PositionSums((1, 8, 8))


def test_sums_are_those_of_single_tokens():
    random = np.random.default_rng(0)
    sums, edges = PositionSums((1, 4, 8, 32)), np.array([1, 4, 8, 32])
    expected = np.zeros((3, 4)), np.zeros((3, 4), np.int64)
    for row, key in enumerate([(0, 0), (0, 1), (7, 0)]):
        index, position = sums.open(*key), 1
        while position < 50:
            count = int(random.integers(1, 14))
            logp_T = random.normal(size=count).astype(np.float32)
            scored_T = random.random(count) < 0.7 if row else None
            sums.add(index, position, logp_T, scored_T)
            for t, logp in enumerate(logp_T):
                bucket = np.searchsorted(edges, position + t, side="right") - 1
                if scored_T is None or scored_T[t]:
                    expected[0][row, bucket] -= logp
                    expected[1][row, bucket] += 1
            position += count
    summed = sums.sums()
    np.testing.assert_allclose(summed.nats_UK, expected[0], rtol=1e-12)
    np.testing.assert_array_equal(summed.tokens_UK, expected[1])
    assert summed.numbers_U.tolist() == [0, 0, 7]
    assert summed.pieces_U.tolist() == [0, 1, 0]
    assert sums.tokens == expected[1].sum()
    assert sums.nats == pytest.approx(expected[0].sum())


def test_nats_are_added_in_float64():
    """In float32 a sum of 2^24 and more no longer grows by 1."""
    sums = PositionSums()
    sums.add(sums.open(0), 1, np.array([-(2.0**24), -1, -1, -1], np.float32))
    assert sums.nats == sums.sums().nats_UK[0, 0] == 2**24 + 3


def test_sums_go_on_where_they_were_kept():
    both = PositionSums((1, 4)), PositionSums((1, 4))
    logp_T = np.full(6, -0.1, np.float32)
    both[0].add(both[0].open(3), 1, logp_T)
    both[1].restore(both[0].arrays())
    for sums in both:
        sums.add(sums.open(1), 2, logp_T)
        sums.add(sums.open(3), 7, logp_T)
    np.testing.assert_equal(both[1].sums()._asdict(), both[0].sums()._asdict())
    assert (both[1].nats, both[1].tokens) == (both[0].nats, both[0].tokens)
    empty = PositionSums((1, 4))
    empty.restore(PositionSums((1, 4)).arrays())
    assert empty.sums().nats_UK.shape == (0, 2)
