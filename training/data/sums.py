# SPDX-License-Identifier: Apache-2.0
"""Sums over blocks of consecutive documents: all that an epoch of very many documents begins with.

Lengths may lie in a file that is mapped into memory and larger than it: they are read in parts, and
the pages that were read are given back.
"""

import mmap
from collections.abc import Callable

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
