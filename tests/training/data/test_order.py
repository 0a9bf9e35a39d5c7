# SPDX-License-Identifier: Apache-2.0
"""A shuffle gives every document once an epoch, at any place, in another order each time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.order import FEW, BlockShuffle, make_shuffle


@pytest.mark.parametrize("count", [1, 2, 1000, FEW - 1, FEW, FEW + 5000])
def test_a_shuffle_is_a_shuffle(count):
    shuffle = make_shuffle(count, 7)
    epoch = [shuffle(place) for place in range(count)]
    assert sorted(epoch) == list(range(count))
    assert [shuffle(place) for place in range(0, count, 999)] == epoch[::999]
    if count > 2:
        assert [shuffle(count + place) for place in range(count)] != epoch
        assert [make_shuffle(count, 8)(place) for place in range(100)] != epoch[:100]
        moved = np.abs(np.array(epoch) - np.arange(count)).mean()
        assert moved == pytest.approx(count / 3, rel=0.1)  # as far as chance takes them


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any), st.integers(0, 9))
def test_a_shuffle_by_blocks_is_a_shuffle(sizes, seed):
    starts = np.cumsum([0, *sizes[:-1]])
    count = sum(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.order.WINDOW_DOCUMENTS", 50)
        shuffle = BlockShuffle(starts, count, seed)
    again = BlockShuffle(starts, count, seed)
    again._blocks_per_window = shuffle._blocks_per_window
    epochs = np.array([shuffle(place) for place in range(3 * count)]).reshape(3, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.arange(count) + 0 * epochs)
    for place in range(3 * count - 1, 0, -7):
        assert again(place) == epochs.reshape(-1)[place]
    if count > 20:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_shuffle_by_blocks_reads_few_blocks_at_a_time():
    shuffle = BlockShuffle(np.arange(0, 100_000, 1000), 100_000, 0)
    blocks = np.array([shuffle(place) // 1000 for place in range(100_000)])
    windows = blocks.reshape(20, 5000)
    assert all(len(set(window)) == 5 for window in windows)
    assert all(len(set(window[:50])) == 5 for window in windows)  # mixed within


def test_places_go_beyond_32_bits():
    documents = 2**33 + 5
    shuffle = make_shuffle(documents, seed=3)
    drawn = {shuffle(3 * documents + place) for place in range(500)}
    assert len(drawn) == 500
    assert max(drawn) > 2**32
    blocks = BlockShuffle(np.array([0, 2**32, 2**33 - 3]), 2**33, seed=0)
    assert blocks._make_epoch(7)[1].tolist() == [0]
