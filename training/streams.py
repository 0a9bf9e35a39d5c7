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

Of several sources, a stream takes its next document from the one with the fewest tokens so far for
its weight, so that weights are shares of tokens however long documents are. Streams begin at
different phases, lest all begin with the same source.

The state holds for each stream [source, offset, documents drawn of each source, tokens drawn of
each source]: the current document is the last one drawn of `source`, `offset` pairs of it are used.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import grain
import numpy as np

from training.documents import Documents, Mixture
from training.packing import Rows, make_row, stack

WINDOW = 4096  # documents that are shuffled together, at least, where they are read in blocks


_Order = Callable[[int], np.ndarray]  # the endless order of one source: number -> ids


class _Whole:
    """Documents as Grain wants them: by number, whole."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._documents.read(int(index))


class BlockShuffle:
    """An endless order that shuffles blocks, and then the documents of a few neighbouring blocks, so that
    those blocks, once read, serve all of them."""

    def __init__(self, blocks: np.ndarray, documents: int, seed: int) -> None:
        self._documents, self._seed = documents, seed
        self._starts = np.asarray(blocks, np.int64)
        self._sizes = np.diff(np.append(self._starts, documents))
        self._epoch = lru_cache(maxsize=4)(self._make_epoch)
        self._window = lru_cache(maxsize=64)(self._make_window)

    def __call__(self, index: int) -> int:
        """Number -> document."""
        epoch, place = divmod(index, self._documents)
        starts = self._epoch(epoch)[1]
        window = int(np.searchsorted(starts, place, "right")) - 1
        return int(self._window(epoch, window)[place - int(starts[window])])

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))

    def _make_epoch(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The blocks of each window, and the place where each window begins."""
        order = self._random(epoch).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[order])
        cuts = np.flatnonzero(np.diff((ends - self._sizes[order]) // WINDOW)) + 1
        windows = np.split(order, cuts)
        sizes = [int(self._sizes[blocks].sum()) for blocks in windows]
        return windows, np.cumsum([0, *sizes[:-1]])

    def _make_window(self, epoch: int, window: int) -> np.ndarray:
        blocks = self._epoch(epoch)[0][window]
        bounds = zip(self._starts[blocks].tolist(), self._sizes[blocks].tolist(), strict=True)
        parts = [np.arange(start, start + size) for start, size in bounds]
        return self._random(epoch, window).permutation(np.concatenate(parts))


def _order(documents: Documents, seed: int, part: int) -> _Order:
    [own] = np.random.SeedSequence(seed, spawn_key=(part,)).generate_state(1).tolist()
    if documents.blocks is not None:
        shuffle = BlockShuffle(documents.blocks, len(documents), own)
        return lambda index: documents.read(shuffle(index))
    order = grain.MapDataset.source(_Whole(documents)).shuffle(seed=own).repeat()
    return lambda index: np.asarray(order[index])


class _Stream:
    """One row of every batch. Used by one thread at a time."""

    def __init__(
        self, number: int, orders: Sequence[_Order], mixture: Mixture, layout: "StreamBatches"
    ) -> None:
        self._number, self._orders, self._layout = number, orders, layout
        self._mixture = mixture
        sources = len(orders)
        # Exponential waiting times: the first document is of source k with probability weight k.
        key = np.random.SeedSequence(layout.seed, spawn_key=(sources, number))
        uniform = (key.generate_state(sources, np.uint64) + 0.5) / 2.0**64
        self._phases = [round(-math.log(u) * layout.row_length) for u in uniform.tolist()]
        self._source, self._offset = -1, 0
        self._drawn, self._tokens = [0] * sources, [0] * sources
        self._ids = np.zeros(0, np.int32)

    def state(self) -> list[int]:
        return [self._source, self._offset, *self._drawn, *self._tokens]

    def restore(self, state: Sequence[int]) -> None:
        self._source, self._offset, *counts = map(int, state)
        self._drawn, self._tokens = counts[: len(self._orders)], counts[len(self._orders) :]
        if self._source >= 0:
            self._ids = self._read(self._source, self._drawn[self._source] - 1)

    def next_row(self) -> tuple[Rows, list[int]]:
        pieces, room = [], self._layout.row_length
        while room:
            if self._offset + 1 >= len(self._ids):
                self._next_document()
            ids = self._ids[self._offset : self._offset + room + 1]
            # In a row of its own a piece begins anew; only a carried state knows what was before.
            pieces.append((ids, self._offset if self._layout.carry else 0))
            self._offset += len(ids) - 1
            room -= len(ids) - 1
        return make_row(pieces, self._layout.row_length), self.state()

    def _next_document(self) -> None:
        weights = self._mixture.weights
        due = [(t + p) / w for t, p, w in zip(self._tokens, self._phases, weights, strict=True)]
        source = due.index(min(due))
        for _ in range(len(self._mixture.parts[source]) + 1):
            ids = self._read(source, self._drawn[source])
            self._drawn[source] += 1
            if len(ids) > 1:
                self._source, self._offset, self._ids = source, 0, ids
                self._tokens[source] += len(ids) - 1
                return
        raise ValueError(
            "a source has no document of two tokens or more, so there is nothing to predict; give "
            "longer text"
        )

    def _read(self, source: int, ordinal: int) -> np.ndarray:
        return self._orders[source](self._number + ordinal * self._layout.batch_size)


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
        self.batch_size, self.row_length, self.seed, self.carry = (
            batch_size,
            row_length,
            seed,
            carry,
        )
        self._mixture, self._own = mixture, rows
        self._orders = [_order(part, seed, number) for number, part in enumerate(mixture.parts)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenise")
        self._start(0, [self._stream(number).state() for number in rows])

    def _stream(self, number: int) -> _Stream:
        return _Stream(number, self._orders, self._mixture, self)

    def _start(self, batches: int, states: Sequence[Sequence[int]]) -> None:
        self._batches, self._states = batches, [list(state) for state in states]
        self._streams = [self._stream(number) for number in self._own]
        self._ahead: list[Future[tuple[Rows, list[int]]]] | None = None

    def __next__(self) -> Rows:
        if self._ahead is None:
            self._ahead = [
                self._pool.submit(_restored_row, stream, state)
                for stream, state in zip(self._streams, self._states, strict=True)
            ]
        rows, states = [], []
        for number, stream in enumerate(self._streams):
            row, state = self._ahead[number].result()
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
        own = self._own
        if not (start <= own.start and own.stop <= stop):
            raise ValueError(
                f"the saved data state holds rows {start} to {stop - 1} of the batch, and this "
                f"process reads rows {own.start} to {own.stop - 1}: give it the states of all "
                f"processes, put together with merge_states"
            )
        self._start(int(state["batches"]), state["streams"][own.start - start : own.stop - start])

    def epochs(self, state: dict[str, Any]) -> tuple[float, ...]:
        """How often each source has been gone through, going by the streams in `state`."""
        start, stop = state["rows"]
        drawn = np.array([stream[2 : 2 + len(self._orders)] for stream in state["streams"]])
        per_row = drawn.sum(axis=0) * (self.batch_size / (stop - start))
        return tuple((per_row / [len(part) for part in self._mixture.parts]).tolist())


def _restored_row(stream: _Stream, state: Sequence[int]) -> tuple[Rows, list[int]]:
    stream.restore(state)
    return stream.next_row()
