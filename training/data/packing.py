# SPDX-License-Identifier: Apache-2.0
"""Documents laid end to end and cut into rows, shuffled: for documents whose lengths are known.

Legend: T time (tokens in a row), R rows, P (token, target) pairs in all documents.

Each epoch lays the documents end to end in an order of its own, cuts that stream into rows of T
pairs and shuffles the rows. Position 0 starts a document; a row that begins inside a document also
starts at position 0, because rows are trained from a fresh state: the piece is a document of its
own. The documents' order differs from epoch to epoch, and with it where the cuts fall. Every pair
is used exactly once an epoch; the last row is filled up with padding: position -1, weight 0.

Which pairs a row holds follows from the seed and the lengths alone, so any row is made by itself,
by whoever needs it, and reads only the documents that it holds pieces of.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import numpy as np

from recurrentgemma.errors import UserError
from training.data.document import Document, count_pairs
from training.data.documents import Documents, InMemory, Mixture

MAX_POSITION = 2**31 - 1


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


@dataclass(frozen=True)
class _EndToEnd:
    """Documents of two ids or more, in order; starts[i] is the first pair of order[i], and
    starts[-1] is P."""

    order: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(lengths: np.ndarray, order: np.ndarray) -> "_EndToEnd":
        order = order[lengths[order] > 1]
        starts = np.zeros(len(order) + 1, np.int64)
        np.cumsum(lengths[order].astype(np.int64) - 1, out=starts[1:])
        return _EndToEnd(order, starts)

    def row(self, documents: Documents, row: int, row_length: int) -> PackedRows:
        start, stop = row * row_length, min((row + 1) * row_length, int(self.starts[-1]))
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        last = int(np.searchsorted(self.starts, stop, "left"))
        pieces = []
        for document, zero, end in zip(
            self.order[first:last].tolist(),
            self.starts[first:last].tolist(),
            self.starts[first + 1 : last + 1].tolist(),
            strict=True,
        ):
            piece = documents.read(document, max(start, zero) - zero, min(stop, end) - zero + 1)
            pieces.append((piece, 0))
        return make_row(pieces, row_length)


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
    rows = count_rows(in_memory.lengths[chosen], row_length)
    laid = _EndToEnd.of(in_memory.lengths, chosen)
    return stack(laid.row(in_memory, row, row_length) for row in range(rows))


def count_rows(lengths: np.ndarray, row_length: int) -> int:
    """How many rows documents of these lengths fill. Raises ValueError if they have no pair."""
    pairs = count_pairs(lengths)
    if pairs == 0:
        raise UserError(
            "no document has two tokens or more, so there is nothing to predict; give longer text"
        )
    return -(-pairs // row_length)


class _Epochs:
    """The rows of one source, epoch after epoch, by number."""

    def __init__(self, documents: Documents, *, row_length: int, seed: int, part: int) -> None:
        lengths = documents.lengths
        assert lengths is not None
        self._documents, self._lengths = documents, np.asarray(lengths)
        self._row_length, self._seed, self._part = row_length, seed, part
        self.rows_per_epoch = count_rows(self._lengths, row_length)
        self._epoch = -1

    def __len__(self) -> int:
        return sys.maxsize  # endless

    def __getitem__(self, index: int) -> PackedRows:
        epoch, row = divmod(index, self.rows_per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng((self._seed, epoch, self._part))
            order = random.permutation(len(self._lengths))
            self._laid = _EndToEnd.of(self._lengths, order)
            self._rows = random.permutation(self.rows_per_epoch)
            self._epoch = epoch
        return self._laid.row(self._documents, int(self._rows[row]), self._row_length)


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
