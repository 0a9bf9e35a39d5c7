# SPDX-License-Identifier: Apache-2.0
"""Each row of the batch as an endless stream of its own: for text that is tokenised on the fly, and
for long documents that go on from one batch to the next.

Legend: B rows in a batch, T time (tokens in a row), K sources.

The documents of each source stand in an endless order, shuffled anew each epoch, that follows from
the seed. Stream b takes documents b, b + B, b + 2B, ... of each, so streams never wait for each
other, share no document, and need not know how long another stream's documents are: any process
and any thread may run any of them. A stream lays its documents end to end and cuts that into rows
of T pairs. Where a document goes over the end of a row, the next row either starts again at
position 0 (a piece of its own) or, to carry the model's state along, goes on with the positions.
Where there are fewer documents than streams, some begin with the same one: each of these at
another place of it, lest they read the same rows for ever.

Of several sources, a stream takes its next document from the one with the fewest tokens so far for
its weight, so that weights are shares of tokens however long documents are. Streams begin at
random phases, lest all of them be at their long documents at the same time.

The state holds for each stream [source, offset, pairs, documents drawn of each source, tokens drawn
of each source]: the current document is the last one drawn of `source`, `offset` of its `pairs` are
used.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.data.document import Document
from training.data.documents import Mixture
from training.data.order import Order, endless_order
from training.data.packing import PackedRows, make_row, stack


@dataclass(frozen=True)
class _Settings:
    """What all streams have in common."""

    mixture: Mixture
    orders: tuple[Order, ...]  # of each source
    batch_size: int
    row_length: int
    seed: int
    carry: bool

    def begun(self, source: int, stream: int) -> float:
        """The part of its first document of a source that a stream leaves out: 0, but where there
        are fewer documents than streams."""
        documents = len(self.mixture.parts[source])
        copies = -(-self.batch_size // documents)  # of a document among the first ones
        return stream // documents / copies


class _Stream:
    """One row of every batch. Used by one thread at a time."""

    def __init__(self, number: int, settings: _Settings) -> None:
        self._number, self._settings = number, settings
        sources = len(settings.orders)
        key = np.random.SeedSequence(settings.seed, spawn_key=(sources, number))
        uniform = key.generate_state(sources, np.uint32) / 2.0**32
        lengths = [part.typical_length for part in settings.mixture.parts]
        self._phases = (uniform * lengths).tolist()
        self._source, self._offset = -1, 0
        self._drawn, self._tokens = [0] * sources, [0] * sources
        self._document = Document(np.zeros(0, np.int32))

    def state(self) -> list[int]:
        pairs = max(len(self._document.ids) - 1, 0)
        return [self._source, self._offset, pairs, *self._drawn, *self._tokens]

    def restore(self, state: Sequence[int]) -> None:
        self._source, self._offset, _, *counts = map(int, state)
        self._drawn, self._tokens = counts[: len(counts) // 2], counts[len(counts) // 2 :]
        if self._source >= 0:
            self._document = self._read(self._source, self._drawn[self._source] - 1)

    def next_row(self) -> tuple[PackedRows, list[int]]:
        pieces, room = [], self._settings.row_length
        while room:
            if self._offset + 1 >= len(self._document.ids):
                self._next_document()
            piece = self._document.cut(self._offset, self._offset + room + 1)
            # In a row of its own a piece begins anew; only a carried state knows what was before.
            pieces.append((piece, self._offset if self._settings.carry else 0))
            self._offset += len(piece.ids) - 1
            room -= len(piece.ids) - 1
        return make_row(pieces, self._settings.row_length), self.state()

    def _next_document(self) -> None:
        weights = self._settings.mixture.weights
        due = [(t + p) / w for t, p, w in zip(self._tokens, self._phases, weights, strict=True)]
        source = due.index(min(due))
        for _ in range(100 + 20 * len(self._settings.mixture.parts[source])):
            document = self._read(source, self._drawn[source])
            self._drawn[source] += 1
            if len(document.ids) > 1:
                self._source, self._offset, self._document = source, 0, document
                self._tokens[source] += len(document.ids) - 1
                return
        raise UserError(
            f"source number {source + 1} has no document of two tokens or more, so there is "
            f"nothing to predict; give longer text"
        )

    def _read(self, source: int, ordinal: int) -> Document:
        document = self._settings.orders[source](self._number + ordinal * self._settings.batch_size)
        begun = self._settings.begun(source, self._number) if ordinal == 0 else 0
        return document.cut(int(begun * (len(document.ids) - 1)), None) if begun else document


class StreamBatches:
    """Batches of one row of each stream, as an iterator for Grain's prefetching. Each stream makes
    its next row on a thread of the pool while the others, and the consumer, are at theirs."""

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_size: int,
        row_length: int,
        seed: int,
        carry: bool,
        rows: range,
        threads: int,
    ) -> None:
        orders = tuple(endless_order(part, seed, n) for n, part in enumerate(mixture.parts))
        self._settings = _Settings(mixture, orders, batch_size, row_length, seed, carry)
        self._own = rows
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenise")
        self._start(0, [_Stream(number, self._settings).state() for number in rows])

    def _start(self, batches: int, states: Sequence[Sequence[int]]) -> None:
        self._batches, self._states = batches, [list(state) for state in states]
        self._streams = [_Stream(number, self._settings) for number in self._own]
        self._ahead: list[Future[tuple[PackedRows, list[int]]]] | None = None

    def __next__(self) -> PackedRows:
        if self._ahead is None:
            self._ahead = [
                self._pool.submit(_restored_row, stream, state)
                for stream, state in zip(self._streams, self._states, strict=True)
            ]
        rows, states = [], []
        for number, stream in enumerate(self._streams):
            try:
                row, state = self._ahead[number].result()
            except BaseException:
                self._start(self._batches, self._states)
                raise
            self._ahead[number] = self._pool.submit(stream.next_row)
            rows.append(row)
            states.append(state)
        self._batches, self._states = self._batches + 1, states
        return stack(rows)

    def get_state(self) -> dict[str, Any]:
        return {
            "batches": self._batches,
            "rows": [self._own.start, self._own.stop],
            "streams": self._states,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        start, stop = state["rows"]
        own, fields = self._own, 3 + 2 * len(self._settings.orders)
        if any(len(stream) != fields for stream in state["streams"]):
            raise UserError(
                f"the saved data state does not hold {fields} numbers for each row: another "
                f"version of this program wrote it; go on with that one, or start a new run"
            )
        if not (start <= own.start and own.stop <= stop):
            raise UserError(
                f"the saved data state holds rows {start} to {stop - 1} of the batch, and this "
                f"process reads rows {own.start} to {own.stop - 1}: give it the states of all "
                f"processes, put together with merge_states"
            )
        self._start(int(state["batches"]), state["streams"][own.start - start : own.stop - start])

    def epochs(self, state: dict[str, Any]) -> tuple[float, ...]:
        """How often each source has been gone through, going by the streams in `state`."""
        start, stop = state["rows"]
        parts = self._settings.mixture.parts
        read = np.zeros(len(parts))  # documents; of a stream's first and last perhaps a part
        for number, stream in enumerate(state["streams"], start):
            source, offset, pairs, *counts = stream
            for part, drawn in enumerate(counts[: len(parts)]):
                begun = self._settings.begun(part, number) if drawn else 0.0
                read[part] += drawn - begun
                if part == source:
                    read[part] -= (1 - offset / pairs) * (1 - begun if drawn == 1 else 1)
        in_batch = read * (self._settings.batch_size / (stop - start))
        return tuple((in_batch / [len(part) for part in parts]).tolist())


def _restored_row(stream: _Stream, state: Sequence[int]) -> tuple[PackedRows, list[int]]:
    stream.restore(state)
    return stream.next_row()
