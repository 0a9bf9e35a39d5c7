# SPDX-License-Identifier: Apache-2.0
"""Every document exactly as often as is asked for: the epochs of fine-tuning.

Legend: B rows in a batch, T time (tokens in a row), D documents with a target, of all sources.

In streams (streams.py) rows go on at their own pace, so that after so many tokens some documents
have been learned from often and others never. Here all documents are read once before the first
batch, which tells how long they are. Their order (all of them, shuffled anew each epoch, by the
seed alone) is dealt out: the next document goes to the row of the batch that has the fewest pairs
so far. A row lays its documents end to end and cuts that into pieces of T pairs, one a batch. A
document that goes over the end of a piece goes on in the next batch, with its positions or, cut, at
position 0. A row whose documents are over is padding (position -1, weight 0) until all rows'
are: at most as long as the longest document.

Which pairs a row of a batch holds follows from the seed and the lengths alone, so the number of
the next batch is all of the state.
"""

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.data.document import Document, count_pairs
from training.data.documents import Documents, Mixture
from training.data.packing import PackedRows, count_rows, make_row, stack


class Deal:
    """Which documents each row of the batch reads, in their order. lengths: ids of each document;
    those of fewer than two have no target and are left out. Raises ValueError: none has one.
    """

    def __init__(
        self, lengths: np.ndarray, *, epochs: float, batch_size: int, row_length: int, seed: int
    ) -> None:
        lengths = np.asarray(lengths, np.int64)
        with_target = np.flatnonzero(lengths > 1)
        count_rows(count_pairs(lengths), row_length)  # raises if there are none
        count = max(round(epochs * len(with_target)), 1)
        order = np.concatenate(
            [
                np.random.default_rng((seed, epoch)).permutation(with_target)
                for epoch in range(-(-count // len(with_target)))
            ]
        )[:count]
        documents: list[list[int]] = [[] for _ in range(batch_size)]
        fewest = [(0, row) for row in range(batch_size)]  # pairs of each row, as a heap
        for document, pairs in zip(order.tolist(), (lengths[order] - 1).tolist(), strict=True):
            least, row = fewest[0]
            documents[row].append(document)
            heapq.heapreplace(fewest, (least + pairs, row))
        self.row_length = row_length
        self.documents = [np.array(row, np.int64) for row in documents]
        # starts[row][i] is the row's first pair of its document i, and starts[row][-1] all of them
        self.starts = [
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[row] - 1)])
            for row in self.documents
        ]
        self.pairs = np.array([starts[-1] for starts in self.starts])
        self.batches = -(-int(self.pairs.max()) // row_length)

    def pieces(self, row: int, batch: int) -> list[tuple[int, int, int]]:
        """What a row of a batch reads: (document, first pair, pair after the last)."""
        starts = self.starts[row]
        start = batch * self.row_length
        stop = min(start + self.row_length, int(starts[-1]))
        if start >= stop:
            return []
        first = int(np.searchsorted(starts, start, "right")) - 1
        last = int(np.searchsorted(starts, stop, "left"))
        return [
            (document, max(start - zero, 0), min(stop, end) - zero)
            for document, zero, end in zip(
                self.documents[row][first:last].tolist(),
                starts[first:last].tolist(),
                starts[first + 1 : last + 1].tolist(),
                strict=True,
            )
        ]

    def part_read(self, batches: int) -> float:
        """The part of all pairs that so many batches hold."""
        read = np.minimum(self.pairs, batches * self.row_length).sum()
        return float(read / self.pairs.sum())


def read_lengths(parts: Sequence[Documents], pool: ThreadPoolExecutor) -> np.ndarray:
    """The number of ids of each document of all parts; what does not know it is read."""
    lengths = []
    for part in parts:
        known = part.lengths
        if known is None:
            known = list(pool.map(lambda n, part=part: len(part.read(n).ids), range(len(part))))
        lengths.append(np.asarray(known, np.int64))
    return np.concatenate(lengths)


class PassBatches:
    """Those batches, as an iterator for prefetching that ends. Each row is made on a thread of the
    pool."""

    def __init__(
        self,
        mixture: Mixture,
        *,
        epochs: float,
        batch_size: int,
        row_length: int,
        seed: int,
        carry: bool,
        rows: range,
        threads: int,
    ) -> None:
        self._parts, self._epochs, self._carry, self._own = mixture.parts, epochs, carry, rows
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenise")
        self._lengths = read_lengths(mixture.parts, self._pool)
        self._ends = np.cumsum([len(part) for part in mixture.parts])
        self._deal = Deal(
            self._lengths, epochs=epochs, batch_size=batch_size, row_length=row_length, seed=seed
        )
        self._last: dict[int, tuple[int, Document]] = {}  # of each row, to go on in
        self._batch = 0

    def __len__(self) -> int:
        return self._deal.batches

    def __next__(self) -> PackedRows:
        if self._batch >= len(self):
            raise StopIteration
        rows = stack(self._pool.map(self._row, self._own))
        self._batch += 1
        return rows

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._batch}

    def set_state(self, state: dict[str, Any]) -> None:
        self._batch = int(state["batches"])

    def epochs(self, state: dict[str, Any]) -> tuple[float, ...]:
        """How often each source has been gone through."""
        return (self._epochs * self._deal.part_read(state["batches"]),) * len(self._parts)

    def _row(self, row: int) -> PackedRows:
        pieces = []
        for number, start, stop in self._deal.pieces(row, self._batch):
            document = self._read(row, number).cut(start, stop + 1)
            pieces.append((document, start if self._carry else 0))
        return make_row(pieces, self._deal.row_length)

    def _read(self, row: int, number: int) -> Document:
        last, document = self._last.get(row, (-1, None))
        if document is None or last != number:
            part = int(np.searchsorted(self._ends, number, "right"))
            place = number - int(self._ends[part]) + len(self._parts[part])
            document = self._parts[part].read(place)
            if len(document.ids) != self._lengths[number]:
                raise UserError(
                    f"document {place} of source number {part + 1} has changed since it was first "
                    f"read: leave the data as it is while a run reads it, and start again"
                )
            self._last[row] = number, document
        return document
