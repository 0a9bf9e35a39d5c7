# SPDX-License-Identifier: Apache-2.0
"""An epoch holds every pair once, in windows too, which take their documents from everywhere and
cost the same however many there are."""

import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import epoch as epochs
from training.data import sums
from training.data.documents import InMemory
from training.data.epoch import BLOCK, WINDOW, Epoch, begin_epoch, takes_windows


class OnlyLengths(InMemory):
    """Documents of which nothing is there but how long they are."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)


def begin(lengths, *, row_length: int, window: int | None, key=(0, 0, 0)) -> Epoch:
    documents = OnlyLengths(np.asarray(lengths, np.uint32))
    return begin_epoch(documents, key, row_length=row_length, window=window)


def rows_of(epoch: Epoch, lengths, row_length: int) -> list[list[tuple[int, ...]]]:
    pairs = sum(max(int(n) - 1, 0) for n in lengths)
    return [list(map(tuple, epoch.pieces(row))) for row in range(-(-pairs // row_length))]


def check(rows, lengths, row_length: int) -> None:
    """Every pair once, and full rows but for one."""
    read = sorted(piece for row in rows for piece in row)
    for (document, start, stop), after in pairwise([*read, (len(lengths), 0, 0)]):
        assert start < stop
        if stop < lengths[document] - 1:
            assert after[:2] == (document, stop)
        else:
            assert stop == lengths[document] - 1
            assert after[0] > document
            assert after[1] == 0
    assert {piece[0] for piece in read} == {n for n, length in enumerate(lengths) if length > 1}
    sizes = sorted(sum(stop - start for _, start, stop in row) for row in rows)
    assert sizes[1:] == [row_length] * (len(rows) - 1)
    assert 0 < sizes[0] <= row_length


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60).filter(lambda n: max(n) > 1),
    st.integers(1, 40),
    st.sampled_from([None, 3, 6, 9, 100]),
    st.integers(0, 5),
)
def test_an_epoch_holds_every_pair_once(lengths, row_length, window, seed):
    """Blocks of three documents; any row by itself, in any order of asking."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (epochs, sums):
            patch.setattr(module, "BLOCK", 3)
        both = [
            begin(lengths, row_length=row_length, window=window, key=(seed, 0, 0)) for _ in range(2)
        ]
        rows = rows_of(both[0], lengths, row_length)
        check(rows, lengths, row_length)
        for row in np.random.default_rng(seed).permutation(len(rows)).tolist():
            assert list(map(tuple, both[1].pieces(row))) == rows[row]


def test_few_documents_are_shuffled_as_they_were_before_there_were_windows():
    """Which rows a run of November 2026 reads: NumPy's order, and then NumPy's rows."""
    lengths = np.array([5, 1, 9, 30, 2, 0, 14])
    random = np.random.default_rng((3, 1, 0))
    order, rows = random.permutation(7), random.permutation(8)
    pairs = [(d, pair) for d in order.tolist() for pair in range(max(lengths[d] - 1, 0))]
    assert len(pairs) == 55
    for window in (None, 7, WINDOW):
        epoch = begin(lengths, row_length=7, window=window, key=(3, 1, 0))
        for row in range(8):
            flat = [
                (d, pair) for d, start, stop in epoch.pieces(row) for pair in range(start, stop)
            ]
            assert flat == pairs[7 * rows[row] : 7 * rows[row] + 7]


def test_epochs_and_seeds_and_sources_differ():
    lengths = np.random.default_rng(0).integers(1, 20, 4 * BLOCK + 9)
    rows = {
        key: rows_of(begin(lengths, row_length=64, window=2 * BLOCK, key=key), lengths, 64)
        for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    for one, other in pairwise(rows.values()):
        assert sum(a == b for a, b in zip(one, other, strict=True)) == 0
    check(rows[0, 0, 0], lengths, 64)


def test_a_window_is_a_sample_of_all_parts_and_its_documents_are_mixed():
    documents, window = 64 * BLOCK, 16 * BLOCK
    lengths = np.full(documents, 9)
    epoch = begin(lengths, row_length=8, window=window)
    read = np.array([epoch.pieces(row)[0].document for row in range(documents)])
    windows = read.reshape(4, window)
    quarters = windows // (documents // 4)
    for one in quarters:  # each quarter of the data gives a quarter of every window
        assert np.bincount(one).tolist() == [window // 4] * 4
    for one in windows:
        blocks = one // BLOCK
        assert len(set(blocks.tolist())) == 16
        assert np.bincount(blocks[:2048]).max() < 2048 / 16 * 1.4  # mixed from the first row on
        moved = np.abs(np.argsort(np.argsort(one)) - np.arange(window)).mean()
        assert moved == pytest.approx(window / 3, rel=0.05)  # as far as chance takes them


@pytest.mark.parametrize("documents", [10**9, 20 * 10**9])
def test_a_billion_documents_begin_at_once_and_in_little_memory(documents):
    """An array of one number, as many times over as is asked; sums are what they would be."""

    class Many(OnlyLengths):
        @property
        def pair_sums(self):
            return pair_sums

    pair_sums = 499 * BLOCK * np.arange(-(-documents // BLOCK) + 1)
    pair_sums[-1] = 499 * documents
    many = Many(np.broadcast_to(np.uint32(500), documents))
    tracemalloc.start()
    start = time.process_time()
    epoch = begin_epoch(many, (0, 0, 0), row_length=2048, window=WINDOW)
    rows = -(-499 * documents // 2048)
    drawn = [epoch.pieces(row) for row in (0, 1, rows // 2, rows - 1)]
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(sum(stop - start for _, start, stop in row) for row in drawn)[1:] == [2048] * 3
    assert max(piece.document for row in drawn for piece in row) > documents / 4
    assert peak < 150e6
    assert seconds < 20  # of a loaded machine; 0.5 and 3 s alone


def test_rows_of_few_long_documents_are_shuffled_without_a_table():
    assert not takes_windows(WINDOW, 1000, WINDOW)
    assert takes_windows(WINDOW + 1, 1000, WINDOW)
    assert takes_windows(2, epochs.MANY_ROWS + 1, WINDOW)
    assert not takes_windows(10**9, 10**9, None)
    books = [2**31 - 1, 5, 2**31 - 1]
    tracemalloc.start()
    epoch = begin(books, row_length=8, window=WINDOW)
    places = [epoch.pieces(row)[0] for row in range(1000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert len(set(places)) == 1000
    assert {piece.document for piece in places} == {0, 2}
    halves = np.array([piece.start > 2**30 for piece in places])
    assert halves.mean() == pytest.approx(0.5, abs=0.1)
