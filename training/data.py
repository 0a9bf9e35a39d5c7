# SPDX-License-Identifier: Apache-2.0
"""Documents to token ids to packed rows, in an order that the seed alone decides.

Legend: B batch, T time (tokens in a row), R rows in an epoch, P (token, target) pairs in all
documents.

A document of n ids gives n - 1 pairs (token, target = the next id). Each epoch lays the documents
end to end in an order of its own, cuts that stream into rows of T pairs and shuffles the rows.
Position 0 starts a document; a row that begins inside a document also starts at position 0, because
rows are trained from a fresh state: the piece is a document of its own. The documents' order
differs from epoch to epoch, and with it where the cuts fall. Every pair is used exactly once an
epoch; the last row is filled up with padding: position -1, weight 0.

The state of the iterator is `{"next_row": r, "fingerprint": f}`: r counts rows from the start of
training, so going on from it needs no replay, and f tells that the documents, T and the seed are
still those that r counted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from recurrentgemma.losses import Batch as Batch


class Rows(NamedTuple):
    """Packed rows on the host: int32 tokens, targets and positions, float32 weights."""

    tokens_RT: np.ndarray
    targets_RT: np.ndarray
    weights_RT: np.ndarray
    positions_RT: np.ndarray


def pack(
    documents: Sequence[np.ndarray], row_length: int, *, order: Sequence[int] | None = None
) -> Rows:
    """All documents, in the given order, as R rows (not yet shuffled).

    Documents of fewer than two ids have no target and are left out.
    """
    chosen = [documents[i] for i in (order if order is not None else range(len(documents)))]
    chosen = [ids for ids in chosen if len(ids) > 1]
    length_P = sum(len(ids) - 1 for ids in chosen)
    if length_P == 0:
        raise ValueError(
            "no document has two tokens or more, so there is nothing to predict; give longer text"
        )
    rows = -(-length_P // row_length)

    def fill(parts: list[np.ndarray], padding: int, dtype: type) -> np.ndarray:
        out = np.full(rows * row_length, padding, dtype)
        out[:length_P] = np.concatenate(parts)
        return out.reshape(rows, row_length)

    tokens_RT = fill([ids[:-1] for ids in chosen], 0, np.int32)
    targets_RT = fill([ids[1:] for ids in chosen], 0, np.int32)
    weights_RT = fill([np.ones(len(ids) - 1) for ids in chosen], 0, np.float32)
    in_document_RT = fill([np.arange(len(ids) - 1) for ids in chosen], -1, np.int32)
    in_row_T = np.arange(row_length, dtype=np.int32)[None]
    # Before its first document start, a row counts from its own beginning.
    starts_RT = np.where(in_document_RT == 0, in_row_T, 0)
    positions_RT = in_row_T - np.maximum.accumulate(starts_RT, axis=1)
    positions_RT = np.where(in_document_RT < 0, -1, positions_RT).astype(np.int32)
    return Rows(tokens_RT, targets_RT, weights_RT, positions_RT)


@dataclass(frozen=True)
class _Epoch:
    number: int
    rows: Rows


class Batches:
    """An endless iterator of batches whose state is two values, and which goes on exactly from
    them."""

    def __init__(
        self, documents: Sequence[np.ndarray], *, batch_size: int, row_length: int, seed: int
    ) -> None:
        self._documents = [np.asarray(ids, np.int32) for ids in documents]
        self._batch_size, self._row_length, self._seed = batch_size, row_length, seed
        self._epoch = self._make_epoch(0)
        self._next_row = 0
        digest = hashlib.sha256(f"{row_length} {seed} {len(documents)}".encode())
        for ids in self._documents:
            digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        self._fingerprint = digest.hexdigest()[:16]

    @property
    def rows_per_epoch(self) -> int:
        return len(self._epoch.rows.tokens_RT)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        rows = [self._row(self._next_row + i) for i in range(self._batch_size)]
        self._next_row += self._batch_size
        return Batch(*(jnp.asarray(np.stack(field)) for field in zip(*rows, strict=True)))

    def state(self) -> dict[str, int | str]:
        """What `restore` needs to go on with the next batch; small, and JSON can hold it."""
        return {"next_row": self._next_row, "fingerprint": self._fingerprint}

    def restore(self, state: dict[str, int | str]) -> None:
        """Go on after the batches that led to `state`. ValueError if they were made of other
        data."""
        if state["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"the training data has fingerprint {self._fingerprint}, the saved run has "
                f"{state['fingerprint']}: the text, the tokenizer, row_length or seed has changed "
                f"since; bring the old ones back or start a new run with another --run-dir"
            )
        self._next_row = int(state["next_row"])

    def _row(self, index: int) -> Rows:
        number, row = divmod(index, self.rows_per_epoch)
        if number != self._epoch.number:
            self._epoch = self._make_epoch(number)
        return Rows(*(field[row] for field in self._epoch.rows))

    def _make_epoch(self, number: int) -> _Epoch:
        random = np.random.default_rng((self._seed, number))
        order = random.permutation(len(self._documents))
        packed = pack(self._documents, self._row_length, order=order.tolist())
        rows = random.permutation(len(packed.tokens_RT))
        return _Epoch(number, Rows(*(field[rows] for field in packed)))
