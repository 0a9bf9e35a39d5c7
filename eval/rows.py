# SPDX-License-Identifier: Apache-2.0
"""Documents laid end to end in the rows of a batch, chunk by chunk: another way of feeding a
ChunkProgram (generation/walk.py).

A row takes the next document where its own ends, inside of a chunk too: position 0 resets the state
there. So short and long documents mix, and no token is padding before the documents run out. When
half of the rows or more have nothing left, the batch becomes half as wide and its chunks twice as
long, so that a call reads as many tokens as before.

Legend: B rows, T tokens of a chunk.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eval.windows import Cut, Span, whole
from recurrentgemma import chunk as chunks
from recurrentgemma.generation.walk import TokenChunk
from training.data.document import Document
from training.data.held_out import HeldOut


class Stretch(NamedTuple):
    """Consecutive pairs of a span in a row of a chunk: columns [column, column + count), which are
    the pairs [start, start + count) of the span. `learned`: the loss mask of their targets."""

    number: int  # of the document
    span: Span
    row: int
    column: int
    start: int
    count: int
    learned_T: np.ndarray | None


@dataclass
class _Reading:
    """A span of a document in a row, of which `at` pairs are read."""

    number: int
    which: int  # of the document's spans
    span: Span
    document: Document  # of the span alone
    at: int = 0
    position: int = 0  # of the next token, as the state has it

    @property
    def left(self) -> int:
        return len(self.document.ids) - 1 - self.at


class Rows:
    """Up to B documents at a time, on their way.

    documents: numbers and documents, in their order; the next one is taken when a row is free.
    batch_size, chunk_length: B and T of the first chunk; `multiple` divides B always.
    cut: into the spans that are read one by one, each from an empty state.
    window: of the model (its config's attention_window), for documents beyond 2^31 tokens.
    where: of another Rows over the same documents, after which this one goes on: then `documents`
      are those from where["taken"] on, and `read` gives one by its number.
    """

    def __init__(
        self,
        documents: Iterator[tuple[int, HeldOut]],
        *,
        batch_size: int,
        chunk_length: int,
        window: int,
        cut: Cut = whole,
        multiple: int = 1,
        where: Mapping[str, Any] | None = None,
        read: Callable[[int], HeldOut] | None = None,
    ) -> None:
        self._documents, self._cut, self._multiple = documents, cut, multiple
        self._widest, self._chunk_length = batch_size, chunk_length
        self._back = chunks.wraps_by(window)
        self._taken, self._start = 0, 0
        self._exhausted = False
        self._waiting: Iterator[_Reading] = iter(())  # the spans to come of the document taken last
        self._next: tuple[int, int] | None = None  # that document, and which of its spans is next
        self._rows: list[_Reading | None] = [None] * batch_size
        if where is not None:
            assert read is not None
            self._restore(where, read)
        self._fill()
        self._length = where["length"] if where else self._fitting()

    @property
    def finished(self) -> bool:
        return not any(self._rows)

    @property
    def batch_size(self) -> int:
        """B of the next chunk."""
        return len(self._rows)

    def where(self) -> dict[str, Any]:
        """Where the next chunk begins: JSON values."""
        rows = [
            None
            if reading is None
            else [reading.number, reading.which, reading.at, reading.position]
            for reading in self._rows
        ]
        return {
            "taken": self._taken,
            "next": self._next,
            "rows": rows,
            "start": self._start,
            "length": self._length,
        }

    def narrow(self) -> np.ndarray | None:
        """Make the batch half as wide, as often as the rows that have something left allow.

        Returns the indices of the rows that go on, in their order, of which some may be idle; None
        where the batch stays as it is. The state's rows have to follow.
        """
        active = [index for index, reading in enumerate(self._rows) if reading is not None]
        width = len(self._rows)
        while width > self._multiple and active:
            half = -(-width // 2 // self._multiple) * self._multiple
            if len(active) > half or half == width:
                break
            width = half
        if width == len(self._rows):
            return None
        idle = [index for index, reading in enumerate(self._rows) if reading is None]
        kept = sorted([*active, *idle[: width - len(active)]])
        self._rows = [self._rows[index] for index in kept]
        self._length = self._fitting()
        return np.array(kept)

    def next_chunk(self) -> tuple[TokenChunk, list[Stretch]]:
        """The next tokens of all rows, and what they are of."""
        shape = (len(self._rows), self._length)
        tokens_BT, targets_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        positions_BT = np.full(shape, -1, np.int32)
        lengths_B = np.zeros(shape[0], np.int32)
        stretches = []
        for row in range(shape[0]):
            column = 0
            while column < shape[1] and (reading := self._reading(row)) is not None:
                count = min(reading.left, shape[1] - column)
                start, columns = reading.at, slice(column, column + count)
                ids, learned = reading.document.ids, reading.document.learned
                tokens_BT[row, columns] = ids[start : start + count]
                targets_BT[row, columns] = ids[start + 1 : start + count + 1]
                positions_BT[row, columns] = np.arange(
                    reading.position, reading.position + count, dtype=np.int32
                )
                mask_T = None if learned is None else learned[start + 1 : start + count + 1]
                stretches.append(
                    Stretch(reading.number, reading.span, row, column, start, count, mask_T)
                )
                reading.at += count
                reading.position += count
                column += count
            lengths_B[row] = column
            reading = self._rows[row]
            if reading is not None and reading.position >= chunks.LONGEST:
                reading.position -= self._back
        chunk = TokenChunk(self._start, tokens_BT, targets_BT, positions_BT, lengths_B)
        self._start += shape[1]
        self._fill()
        return chunk, stretches

    def _fitting(self) -> int:
        """T: as many tokens as in the first chunk; less where no row has so many left."""
        longest = self._chunk_length * (self._widest // len(self._rows))
        if not self._exhausted:
            return longest
        left = max((reading.left for reading in self._rows if reading is not None), default=1)
        length = self._chunk_length
        while length < min(left, longest):
            length *= 2
        return min(length, longest)

    def _fill(self) -> None:
        for row in range(len(self._rows)):
            self._reading(row)

    def _reading(self, row: int) -> _Reading | None:
        """What a row reads now: the next span where it has come to its end."""
        reading = self._rows[row]
        if reading is None or reading.left < 1:
            reading = self._rows[row] = self._take()
        return reading

    def _take(self) -> _Reading | None:
        """The next span with something to read."""
        while not self._exhausted:
            for reading in self._waiting:
                self._next = (reading.number, reading.which + 1)
                if reading.left > 0:
                    return reading
            pair = next(self._documents, None)
            if pair is None:
                self._exhausted, self._next = True, None
                break
            self._taken += 1
            self._waiting = self._spans(*pair, first=0)
        return None

    def _spans(self, number: int, held_out: HeldOut, *, first: int) -> Iterator[_Reading]:
        document = held_out.document
        spans = self._cut(len(document.ids))
        return (
            self._begin(number, which, spans[which], document) for which in range(first, len(spans))
        )

    @staticmethod
    def _begin(number: int, which: int, span: Span, document: Document) -> _Reading:
        part = document.cut(span.start, span.stop)
        if span.scored > span.start + 1:  # the others are read, and scored by another span
            learned = np.ones(len(part.ids), bool) if part.learned is None else part.learned.copy()
            learned[: span.scored - span.start] = False
            part = Document(part.ids, learned)
        return _Reading(number, which, span, part)

    def _restore(self, where: Mapping[str, Any], read: Callable[[int], HeldOut]) -> None:
        def reading(number: int, which: int, at: int, position: int) -> _Reading:
            document = read(number).document
            begun = self._begin(number, which, self._cut(len(document.ids))[which], document)
            begun.at, begun.position = at, position
            return begun

        self._taken, self._start = where["taken"], where["start"]
        self._rows = [None if row is None else reading(*row) for row in where["rows"]]
        if where["next"] is not None:
            number, which = self._next = tuple(where["next"])
            self._waiting = self._spans(number, read(number), first=which)
