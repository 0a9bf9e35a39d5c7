# SPDX-License-Identifier: Apache-2.0
"""Documents laid end to end and cut into rows, shuffled: for documents whose lengths are known.

Legend: T time (tokens in a row), R rows, P (token, target) pairs in all documents.

Each epoch lays the documents end to end in an order of its own, cuts that stream into rows of T
pairs and shuffles the rows (`epoch.py`). Position 0 starts a document; a row that begins inside a
document also starts at position 0, because rows are trained from a fresh state: the piece is a
document of its own. The documents' order differs from epoch to epoch, and with it where the cuts
fall. Every pair is used exactly once an epoch; the last row is filled up with padding: position -1,
weight 0.

Which pairs a row holds follows from the seed and the lengths alone, so any row is made by itself,
by whoever needs it, and reads only the documents that it holds pieces of.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from recurrentgemma.errors import UserError
from training.data.document import Document, count_pairs
from training.data.documents import Documents, InMemory, Mixture
from training.data.epoch import WINDOW, EndToEnd, Piece, begin_epoch, takes_windows

MAX_POSITION = 2**31 - 1
ROWS, IN_WINDOWS = "rows", "rows in windows"  # layouts: a whole epoch shuffled at once, or not


class PackedRows(NamedTuple):
    """Packed rows on the host: int32 tokens, targets and positions, float32 weights."""

    tokens_RT: np.ndarray
    targets_RT: np.ndarray
    weights_RT: np.ndarray
    positions_RT: np.ndarray


def stack(rows_T: Iterable[PackedRows]) -> PackedRows:
    """Single rows, each [T], as [R, T]."""
    return PackedRows(*(np.stack(field) for field in zip(*rows_T, strict=True)))


def make_row(pieces: Iterable[tuple[Document, int]], row_length: int) -> PackedRows:
    """One row, [T], of pieces (n + 1 ids for n pairs; the position of the first), then padding.

    Targets that a document's loss mask leaves out have weight 0.
    """
    tokens_T, targets_T = np.zeros((2, row_length), np.int32)
    weights_T = np.zeros(row_length, np.float32)
    positions_T = np.full(row_length, -1, np.int32)
    start = 0
    for piece, position in pieces:
        ids = piece.ids
        stop = start + len(ids) - 1
        if position + len(ids) > MAX_POSITION:
            raise UserError(
                f"a document of more than {MAX_POSITION:,} tokens cannot be carried from row to "
                f"row, because positions have 32 bits: cut it, or use long_documents='cut'"
            )
        tokens_T[start:stop], targets_T[start:stop] = ids[:-1], ids[1:]
        weights_T[start:stop] = 1.0 if piece.learned is None else piece.learned[1:]
        positions_T[start:stop] = np.arange(position, position + stop - start)
        start = stop
    return PackedRows(tokens_T, targets_T, weights_T, positions_T)


def read_row(documents: Documents, pieces: Iterable[Piece], row_length: int) -> PackedRows:
    """One row, [T], whose pieces are documents of their own."""
    read = [(documents.read(p.document, p.start, p.stop + 1), 0) for p in pieces]
    return make_row(read, row_length)


def pack(
    documents: Sequence[np.ndarray | Document],
    row_length: int,
    *,
    order: Sequence[int] | None = None,
) -> PackedRows:
    """All documents, in the given order, as R rows (not shuffled).

    Documents of fewer than two ids have no target and are left out.
    """
    in_memory = InMemory(documents)
    chosen = np.arange(len(documents)) if order is None else np.asarray(order, np.int64)
    lengths = in_memory.lengths[chosen]
    pairs = count_pairs(lengths)
    laid = EndToEnd.of(chosen, lengths)
    return stack(
        read_row(
            in_memory,
            laid.pieces(row * row_length, min((row + 1) * row_length, pairs)),
            row_length,
        )
        for row in range(count_rows(pairs, row_length))
    )


def count_rows(pairs: int, row_length: int) -> int:
    """How many rows so many pairs fill. Raises ValueError if there is none."""
    if pairs == 0:
        raise UserError(
            "no document has two tokens or more, so there is nothing to predict; give longer text"
        )
    return -(-pairs // row_length)


class _Epochs:
    """The rows of one source, epoch after epoch, by number."""

    def __init__(self, documents: Documents, *, row_length: int, seed: int, part: int) -> None:
        sums = documents.pair_sums
        assert sums is not None
        self._documents = documents
        self._row_length, self._seed, self._part = row_length, seed, part
        self.rows_per_epoch = count_rows(int(sums[-1]), row_length)
        self.order_by(WINDOW)

    def order_by(self, window: int | None) -> None:
        """See `PackedBatches.order_by`."""
        documents = len(self._documents)
        self._window = window
        self.in_windows = takes_windows(documents, self.rows_per_epoch, window)
        self._epoch = -1

    def __len__(self) -> int:
        return sys.maxsize  # endless

    def __getitem__(self, index: int) -> PackedRows:
        epoch, row = divmod(index, self.rows_per_epoch)
        if epoch != self._epoch:
            key = (self._seed, epoch, self._part)
            self._rows = begin_epoch(
                self._documents, key, row_length=self._row_length, window=self._window
            )
            self._epoch = epoch
        return read_row(self._documents, self._rows.pieces(row), self._row_length)


class PackedBatches:
    """Batches of such rows, as an iterator for Grain's prefetching.

    Rows of several sources alternate in proportion to their weights. The state is the number of the
    next row, counted over all processes from the start of training.
    """

    def __init__(
        self, mixture: Mixture, *, batch_size: int, row_length: int, seed: int, rows: range
    ) -> None:
        self._parts = [
            _Epochs(documents, row_length=row_length, seed=seed, part=part)
            for part, documents in enumerate(mixture.parts)
        ]
        mixed = [grain.MapDataset.source(part) for part in self._parts]
        # Each batch wants its rows in order, and a source makes a new epoch when the last is over.
        self._rows: Any = mixed[0]
        if len(mixed) > 1:
            self._rows = grain.MapDataset.mix(mixed, mixture.weights)
        self._batch_size, self._own = batch_size, rows
        self._shares = np.array(mixture.weights) / sum(mixture.weights)
        self._next_row = 0

    def order_by(self, window: int | None) -> None:
        """Shuffle so many documents at a time, as the run began; None: all, however many."""
        for part in self._parts:
            part.order_by(window)

    @property
    def layout(self) -> dict[str, Any]:
        """What tells this order from others, for a run's state. Runs from before there were windows
        have no number of them."""
        if any(part.in_windows for part in self._parts):
            return {"layout": IN_WINDOWS, "window": WINDOW}
        return {"layout": ROWS}

    def __next__(self) -> PackedRows:
        rows = stack(self._rows[self._next_row + row] for row in self._own)
        self._next_row += self._batch_size
        return rows

    def get_state(self) -> dict[str, Any]:
        return {"next_row": self._next_row}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next_row = int(state["next_row"])

    def epochs(self, state: dict[str, Any]) -> tuple[float, ...]:
        """How often each source has been gone through."""
        per_epoch = np.array([part.rows_per_epoch for part in self._parts])
        return tuple((state["next_row"] * self._shares / per_epoch).tolist())
