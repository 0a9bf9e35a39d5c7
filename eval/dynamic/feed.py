# SPDX-License-Identifier: Apache-2.0
"""Documents over streams: what each stream reads next, segment by segment.

A segment is of one document. A stream takes the next document when its own has ended; when none is
left for half of the streams, the others go on alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from eval.documents import Documents
from eval.dynamic import segments
from eval.dynamic.config import DynamicConfig
from eval.dynamic.limits import check_document
from eval.dynamic.replay import Replay
from eval.dynamic.segments import Replayed, Segment
from recurrentgemma.generation.lm import LanguageModel
from training.data.held_out import HeldOut


class Turn(NamedTuple):
    """What a stream reads in a step: of document `number`, the targets [first, first + length) by
    their place in the document; which of them are scored, if not all."""

    stream: int
    number: int
    first: int
    length: int
    scored_L: np.ndarray | None
    starts: bool
    ends: bool


class Fed(NamedTuple):
    """The input of a step."""

    turns: list[Turn]
    segment: Segment
    replayed: Replayed | None
    starts_S: np.ndarray
    """Streams whose document starts here."""


class _Reading:
    """A document in a stream, of which the first `at` pairs are read."""

    def __init__(self, number: int, held_out: HeldOut, at: int = 0):
        self.number, self.held_out, self.at = number, held_out, at

    @property
    def left(self) -> int:
        return len(self.held_out.document.ids) - 1 - self.at


class Feed:
    """Documents over so many streams. replays: of each stream; None where nothing is replayed."""

    def __init__(
        self,
        lm: LanguageModel,
        documents: Documents,
        choices: DynamicConfig,
        replays: list[Replay | None],
    ):
        self._lm, self._documents, self._choices = lm, documents, choices
        self._order = documents.order() if choices.reset_parameters else range(len(documents))
        self._taken = 0
        self.replays = replays
        self._streams: list[_Reading | None] = [None] * len(replays)
        self._fill()

    @property
    def finished(self) -> bool:
        return not any(self._streams)

    @property
    def count(self) -> int:
        return len(self._streams)

    def next(self) -> Fed:
        """The next segment of each stream."""
        choices, size = self._choices, self._choices.segment_length
        parts, others, turns = [], [], []
        starts_S = np.zeros(self.count, bool)
        for stream, (reading, replay) in enumerate(zip(self._streams, self.replays, strict=True)):
            rows: list[np.ndarray] = []
            if reading is None:
                parts.append(segments.nothing(choices))
            else:
                document, start = reading.held_out.document, reading.at
                length = min(size, reading.left)
                parts.append(
                    segments.cut(choices, document.ids, start, length, learned=document.learned)
                )
                starts_S[stream] = start == 0
                if replay is not None:
                    if start == 0 and choices.reset_parameters:
                        replay.restart()
                    rows = replay.next(document.ids[start : start + length + 1])
                first, ends = start + 1, length == reading.left
                scored_L = None
                if document.learned is not None:
                    scored_L = document.learned[first : first + length]
                turns.append(
                    Turn(stream, reading.number, first, length, scored_L, start == 0, ends)
                )
                reading.at += length
            if replay is not None:
                others.append(segments.replayed(choices, rows))
        self._fill()
        replayed = segments.stacked(others) if others else None
        return Fed(turns, segments.stacked(parts), replayed, starts_S)

    def narrow(self, multiple: int) -> list[int] | None:
        """The streams that go on alone, where half of them or more have nothing left; None: all.
        Their number stays a multiple of this."""
        active = [i for i, reading in enumerate(self._streams) if reading is not None]
        width = self.count
        while active and width > multiple and len(active) <= width // 2:
            width = max(-(-(width // 2) // multiple) * multiple, multiple)
        if width >= self.count:
            return None
        idle = [i for i in range(self.count) if i not in active]
        rows = sorted([*active, *idle[: width - len(active)]])
        self._streams = [self._streams[row] for row in rows]
        self.replays = [self.replays[row] for row in rows]
        return rows

    def where(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Where the next segments begin: JSON values, and arrays."""
        streams = [None if r is None else [r.number, r.at] for r in self._streams]
        arrays = {
            f"replay.{stream}.{name}": array
            for stream, replay in enumerate(self.replays)
            if replay is not None
            for name, array in replay.arrays().items()
        }
        return {"taken": self._taken, "streams": streams}, arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Go on where `where` was taken."""
        self._taken = values["taken"]
        self.replays = self.replays[: len(values["streams"])]
        self._streams = [
            None if place is None else _Reading(place[0], self._documents.read(place[0]), place[1])
            for place in values["streams"]
        ]
        for stream, replay in enumerate(self.replays):
            prefix = f"replay.{stream}."
            if replay is not None:
                replay.restore(
                    {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
                )

    def _fill(self) -> None:
        for stream, reading in enumerate(self._streams):
            if reading is None or reading.left < 1:
                self._streams[stream] = self._take()

    def _take(self) -> _Reading | None:
        """The next document with something to predict."""
        while self._taken < len(self._order):
            number = self._order[self._taken]
            self._taken += 1
            held_out = self._documents.read(number)
            tokens = len(held_out.document.ids)
            check_document(self._lm, self._choices, tokens, held_out.name)
            if tokens > 1:
                return _Reading(number, held_out)
        return None
