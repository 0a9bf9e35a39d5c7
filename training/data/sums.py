# SPDX-License-Identifier: Apache-2.0
"""Sums over blocks of consecutive documents: all that an epoch of very many documents begins with.

Lengths may lie in a file that is mapped into memory and larger than it: they are read in parts, and
the pages that were read are given back.
"""

import mmap
from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 1024  # documents; the lengths of a block in 32 bits are one page of memory
PART = 4096 * BLOCK  # documents that are read at once
HELD = 64  # blocks of a map between two times that memory is given back: a page may be 2 MB


def pairs_of(lengths: np.ndarray) -> np.ndarray:
    """How many (token, target) pairs each document of so many ids has: int64."""
    return np.maximum(lengths.astype(np.int64) - 1, 0)


def sum_blocks(lengths: np.ndarray, amount: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """int64 [blocks + 1]: how much all documents before each block have, and, last, all have.
    amount: of documents of these lengths."""
    blocks = -(-len(lengths) // BLOCK)
    sums = np.zeros(blocks + 1, np.int64)
    for first in range(0, len(lengths), PART):
        amounts = amount(np.asarray(lengths[first : first + PART]))
        block = first // BLOCK
        of_blocks = np.add.reduceat(amounts, np.arange(0, len(amounts), BLOCK))
        sums[block + 1 : block + 1 + len(of_blocks)] = of_blocks
        give_back(lengths)
    return np.cumsum(sums, out=sums)


def median_and_longest(lengths: np.ndarray) -> tuple[int, int]:
    """Of at least one length, the median rounded down. By counting, first by all but the last 16
    bits: whatever their number, what it takes is read in parts."""
    counts, longest = np.zeros(0, np.int64), 0
    for part in _parts_of(lengths):
        counts = _added(counts, np.bincount(part >> 16))
        longest = max(longest, int(part.max()))
    ends = np.cumsum(counts)
    ranks = (len(lengths) - 1) // 2, len(lengths) // 2
    places = np.searchsorted(ends, ranks, side="right").tolist()
    fine: dict[int, np.ndarray] = {place: np.zeros(1 << 16, np.int64) for place in places}
    for part in _parts_of(lengths):
        for place, of_place in fine.items():
            low = part[part >> 16 == place] & 0xFFFF
            of_place += np.bincount(low, minlength=len(of_place))
    middle = [
        (place << 16)
        + int(np.searchsorted(np.cumsum(fine[place]), rank - ends[place] + counts[place], "right"))
        for place, rank in zip(places, ranks, strict=True)
    ]
    return sum(middle) // 2, longest


def _parts_of(lengths: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(lengths), PART):
        yield np.asarray(lengths[first : first + PART]).astype(np.int64, copy=False)
        give_back(lengths)


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    longer[: len(shorter)] += shorter
    return longer


def read_some(lengths: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The lengths of these documents, whose numbers ascend."""
    parts = []
    for first in range(0, len(documents), HELD * BLOCK):
        parts.append(np.asarray(lengths[documents[first : first + HELD * BLOCK]]))
        give_back(lengths)
    return np.concatenate(parts)


def give_back(array: np.ndarray) -> None:
    """Let go of the memory that a file has taken that this array is a read-only map of; what is
    asked for again is read again. An array in memory stays as it is."""
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)
