# SPDX-License-Identifier: Apache-2.0
"""Sums over blocks of documents, of arrays in memory and on disk."""

from pathlib import Path

import numpy as np
import pytest

from training.data import sums
from training.data.sums import BLOCK, give_back, median_and_longest, pairs_of, sum_blocks


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_sums_are_of_what_stands_before_each_block(count, monkeypatch):
    monkeypatch.setattr(sums, "PART", 2 * BLOCK)  # several parts
    lengths = np.random.default_rng(count).integers(0, 2**32, count).astype(np.uint32)
    pairs = pairs_of(lengths)
    assert pairs.tolist() == [max(int(n) - 1, 0) for n in lengths]
    expected = [int(pairs[:first].sum()) for first in range(0, count, BLOCK)]
    assert sum_blocks(lengths, pairs_of).tolist() == [*expected, int(pairs.sum())]


def test_a_mapped_array_is_the_same_after_it_was_given_back(tmp_path: Path):
    array = np.arange(2 * 3000).reshape(2, 3000)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().split(f"{tmp_path}/a.npy")[1].splitlines()
        return int(next(line for line in lines if line.startswith("Rss:")).split()[1])

    assert mapped[1].sum() == array[1].sum()
    assert resident() > 0
    give_back(mapped[1, 5:])
    assert resident() == 0
    np.testing.assert_array_equal(mapped, array)
    give_back(array)
    assert array[1, 2999] == 5999


def test_some_lengths_are_read_a_few_blocks_at_a_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sums, "HELD", 1)
    lengths = np.random.default_rng(0).integers(0, 99, 5 * BLOCK).astype(np.uint32)
    np.save(tmp_path / "a.npy", lengths)
    documents = np.flatnonzero(lengths > 30)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(sums.read_some(mapped, documents), lengths[documents])


@pytest.mark.parametrize("kind", [np.uint32, np.int64])
@pytest.mark.parametrize("most", [2, 90, 70_000, 2**31])
@pytest.mark.parametrize("count", [1, 2, 5 * BLOCK, 5 * BLOCK + 1])
def test_the_median_and_the_longest(count, most, kind, monkeypatch):
    monkeypatch.setattr(sums, "PART", 2 * BLOCK)
    lengths = np.random.default_rng(count).integers(0, most, count).astype(kind)
    assert median_and_longest(lengths) == (int(np.median(lengths)), int(lengths.max()))
