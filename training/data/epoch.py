# SPDX-License-Identifier: Apache-2.0
"""Which pieces of which documents each row of one epoch holds: from the seed and lengths alone.

Legend: T time (tokens in a row), P (token, target) pairs in all documents, N documents.

An epoch is a stream of P pairs, the documents end to end in an order of their own, cut into rows of
T pairs; the rows are shuffled. Up to WINDOW documents are shuffled as a whole.

More are shuffled in windows, so that what is held does not grow with them. Each BLOCK consecutive
documents are a block, of which the number of pairs is known (`sums.py`). Blocks are counted off
into strata of W consecutive ones each, where W is the number of windows, and window w takes one
block of each stratum, drawn anew each epoch: a window is a sample of all parts of the data, in
their shares. Its documents, WINDOW at most, are shuffled one by one, and the rows that begin in it
among themselves. Windows follow each other in the stream, and a row may begin in one and end in the
next. An epoch begins with one pass over the sums, N / BLOCK numbers, and a window with the lengths
of its own documents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from training.data.documents import Documents
from training.data.order import make_shuffle
from training.data.sums import BLOCK, give_back, read_some

WINDOW = 1 << 20  # documents
MANY_ROWS = 1 << 22  # more are shuffled by a cipher in place of a table of them


class Piece(NamedTuple):
    """Pairs [start, stop) of a document."""

    document: int
    start: int
    stop: int


class Epoch(Protocol):
    """Of one source."""

    def pieces(self, row: int) -> list[Piece]:
        """What the row of this number holds, in its order."""
        ...


@dataclass(frozen=True)
class EndToEnd:
    """Documents of two ids or more, in order; starts[i] is the first pair of order[i], and
    starts[-1] is all pairs."""

    order: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(order: np.ndarray, lengths: np.ndarray) -> "EndToEnd":
        """lengths: of the documents in `order`, in that order."""
        long = lengths > 1
        order, lengths = order[long], lengths[long]
        starts = np.zeros(len(order) + 1, np.int64)
        np.cumsum(lengths, dtype=np.int64, out=starts[1:])
        starts -= np.arange(len(starts))
        return EndToEnd(order, starts)

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """Those that make up pairs [start, stop)."""
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        last = int(np.searchsorted(self.starts, stop, "left"))
        return [
            Piece(document, max(start, zero) - zero, min(stop, end) - zero)
            for document, zero, end in zip(
                self.order[first:last].tolist(),
                self.starts[first:last].tolist(),
                self.starts[first + 1 : last + 1].tolist(),
                strict=True,
            )
        ]


def takes_windows(documents: int, rows: int, window: int | None) -> bool:
    """Whether an epoch of so much is shuffled in windows. window: None: never."""
    return window is not None and (documents > window or rows > MANY_ROWS)


def begin_epoch(
    documents: Documents, key: tuple[int, ...], *, row_length: int, window: int | None
) -> Epoch:
    """The epoch that follows from `key`, of documents of known lengths. window: the most documents
    that are shuffled one by one; None: all, however many."""
    sums = documents.pair_sums
    assert sums is not None
    if takes_windows(len(documents), -(-int(sums[-1]) // row_length), window):
        assert window is not None
        return _InWindows(documents, key, row_length=row_length, window=window)
    return _Whole(documents, key, row_length=row_length)


class _Whole:
    """All documents shuffled one by one, and all rows."""

    def __init__(self, documents: Documents, key: tuple[int, ...], *, row_length: int) -> None:
        random = np.random.default_rng(key)
        assert documents.lengths is not None
        lengths = np.asarray(documents.lengths)
        order = random.permutation(len(lengths))
        self._laid, self._row_length = EndToEnd.of(order, lengths[order]), row_length
        self._pairs = int(self._laid.starts[-1])
        self._rows = random.permutation(-(-self._pairs // row_length))

    def pieces(self, row: int) -> list[Piece]:
        start = int(self._rows[row]) * self._row_length
        return self._laid.pieces(start, min(start + self._row_length, self._pairs))


def _row_shuffle(rows: int, random: np.random.Generator) -> Callable[[int], int]:
    if rows <= MANY_ROWS:
        return random.permutation(rows).item
    return make_shuffle(rows, int(random.integers(2**32)))


class _InWindows:
    """The same in windows. Two of them are held, as a row may lie in both."""

    def __init__(
        self, documents: Documents, key: tuple[int, ...], *, row_length: int, window: int
    ) -> None:
        assert documents.lengths is not None
        assert documents.pair_sums is not None
        self._documents, self._lengths = len(documents), documents.lengths
        self._key, self._row_length = key, row_length
        self._blocks = len(documents.pair_sums) - 1
        self.windows = -(-self._blocks // max(window // BLOCK, 1))
        self._strata = -(-self._blocks // self.windows)
        pairs = self._count_pairs(documents.pair_sums)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs)])
        self._first_rows = -(-self.starts // row_length)  # the first row that begins in each window
        self._window = lru_cache(maxsize=2)(self._make_window)

    def pieces(self, row: int) -> list[Piece]:
        window = int(np.searchsorted(self._first_rows, row, "right")) - 1
        first = int(self._first_rows[window])
        start = (first + self._window(window)[1](row - first)) * self._row_length
        stop = min(start + self._row_length, int(self.starts[-1]))
        pieces = []
        while start < stop:
            zero, end = self.starts[window : window + 2].tolist()
            if start < end:
                pieces += self._window(window)[0].pieces(start - zero, min(stop, end) - zero)
                start = min(stop, end)
            window += 1
        return pieces

    def blocks(self, window: int) -> np.ndarray:
        """The numbers of a window's blocks, ascending."""
        random = self._random(0)
        chosen = [
            stratum * self.windows + int(random.permutation(self.windows)[window])
            for stratum in range(self._strata)
        ]
        return np.array([block for block in chosen if block < self._blocks], np.int64)

    def _count_pairs(self, sums: np.ndarray) -> np.ndarray:
        """Of each window."""
        random, pairs = self._random(0), np.zeros(self.windows, np.int64)
        of_blocks = np.zeros(self.windows, np.int64)
        for stratum in range(self._strata):
            first = stratum * self.windows
            known = np.diff(sums[first : first + self.windows + 1])
            of_blocks[: len(known)], of_blocks[len(known) :] = known, 0
            pairs += of_blocks[random.permutation(self.windows)]
        give_back(sums)
        return pairs

    def _make_window(self, window: int) -> tuple[EndToEnd, Callable[[int], int]]:
        """Its documents end to end, and the shuffle of the rows that begin in it."""
        documents = (BLOCK * self.blocks(window)[:, None] + np.arange(BLOCK)).reshape(-1)
        documents = documents[documents < self._documents]
        lengths = read_some(self._lengths, documents)
        random = self._random(1, window)
        order = random.permutation(len(documents))
        rows = int(self._first_rows[window + 1] - self._first_rows[window])
        return EndToEnd.of(documents[order], lengths[order]), _row_shuffle(rows, random)

    def _random(self, *part: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._key, spawn_key=part))
