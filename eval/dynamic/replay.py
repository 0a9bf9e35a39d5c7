# SPDX-License-Identifier: Apache-2.0
"""What is learned from beside each segment: earlier segments of the stream, or a given text.

What comes next follows from the seed and the number of segments so far, so that a stream that is
interrupted goes on as it would have.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from eval.dynamic.config import DynamicConfig
from recurrentgemma.errors import UserError


class Replay(Protocol):
    """Of one stream."""

    def next(self, ids: np.ndarray) -> list[np.ndarray]:
        """The rows to learn from beside the segment of these ids, of up to L + 1 ids each."""
        ...

    def restart(self) -> None:
        """A document starts with the checkpoint's parameters."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """Where it stands."""
        ...

    def restore(self, arrays: dict[str, np.ndarray]) -> None: ...


class StreamReplay:
    """Earlier segments, drawn at random. Of all that were seen, at most `capacity` are kept, each
    with the same probability (reservoir sampling), so that memory does not grow."""

    def __init__(self, choices: DynamicConfig):
        self._seed, self._drawn = choices.seed, choices.replay.rows
        shape = (choices.replay.capacity, choices.segment_length + 1)
        self._ids, self._lengths = np.zeros(shape, np.int32), np.zeros(shape[0], np.int32)
        self._count = 0

    def next(self, ids: np.ndarray) -> list[np.ndarray]:
        random = np.random.default_rng((self._seed, self._count))
        held = min(self._count, len(self._ids))
        chosen = random.permutation(held)[: self._drawn]
        rows = [self._ids[i, : self._lengths[i]].copy() for i in chosen]
        place = self._count
        if place >= len(self._ids):
            place = int(random.integers(self._count + 1))
        if place < len(self._ids):
            self._ids[place, : len(ids)], self._lengths[place] = ids, len(ids)
        self._count += 1
        return rows

    def restart(self) -> None:
        self._count = 0

    def arrays(self) -> dict[str, np.ndarray]:
        return {"ids": self._ids, "lengths": self._lengths, "count": np.array([self._count])}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._ids, self._lengths = arrays["ids"].copy(), arrays["lengths"].copy()
        self._count = int(arrays["count"][0])


class TextReplay:
    """Places of a given text, drawn at random. texts: ids of documents, which streams share."""

    def __init__(self, choices: DynamicConfig, texts: Sequence[np.ndarray]):
        self._seed, self._rows = choices.seed, choices.replay.rows
        self._length = choices.segment_length + 1
        self._texts = [np.asarray(ids, np.int32) for ids in texts if len(ids) > 1]
        if not self._texts:
            raise UserError("there is no text to replay: give documents that are not empty")
        self._share = np.array([len(ids) for ids in self._texts]) / sum(map(len, self._texts))
        self._count = 0

    def next(self, ids: np.ndarray) -> list[np.ndarray]:
        random = np.random.default_rng((self._seed, self._count))
        rows = []
        for number in random.choice(len(self._texts), self._rows, p=self._share):
            text = self._texts[number]
            start = int(random.integers(max(1, len(text) - self._length + 1)))
            rows.append(text[start : start + self._length])
        self._count += 1
        return rows

    def restart(self) -> None:
        pass

    def arrays(self) -> dict[str, np.ndarray]:
        return {"count": np.array([self._count])}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._count = int(arrays["count"][0])


def make_replay(choices: DynamicConfig, texts: Sequence[np.ndarray] | None) -> Replay | None:
    """What the choices say; None where nothing is replayed.

    Raises UserError: a text is needed and there is none, or the other way round.
    """
    by_text = choices.replay.rows > 0 and choices.replay.of == "text"
    if by_text and texts is None:
        raise UserError("replay.of=text: give the text to replay (--replay-data)")
    if texts is not None and not by_text:
        raise UserError("a text to replay has no effect without replay.rows and replay.of=text")
    if by_text:
        return TextReplay(choices, texts or ())
    return StreamReplay(choices) if choices.replay.rows else None
