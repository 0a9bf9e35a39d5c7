# SPDX-License-Identifier: Apache-2.0
"""How a document is cut into spans that are read one by one, each from an empty state.

| cut                       | spans                                                                |
|---------------------------|----------------------------------------------------------------------|
| whole                     | one: the document                                                    |
| Windows(length, stride)   | overlapping; each scores only what the one before has not scored     |
| Pieces(length)            | of `length` pairs, side by side, each a document of its own          |

A model whose state has a fixed size reads documents whole. One with global attention holds
context_length keys, and reads longer documents by sliding windows: the first one scores all of its
`length` targets and each that follows the next `stride`, from at least length - stride tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError


class Span(NamedTuple):
    """Ids [start, stop) of a document, of which those from `scored` on are scored. `first`: the
    position of the first of them; `piece`: to which of the document's sums its scores belong."""

    start: int
    stop: int
    scored: int
    first: int = 0
    piece: int = 0


Cut = Callable[[int], Sequence[Span]]
"""From a document's number of ids to its spans."""


def whole(ids: int) -> Sequence[Span]:
    """A document as it is."""
    return (Span(0, ids, 1),)


@dataclass(frozen=True)
class Windows:
    """Sliding windows of `length` tokens, a new one after every `stride`.

    Raises UserError: a length below 1, or a stride that is not from 1 to length.
    """

    length: int
    stride: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"windows of {self.length} tokens: expected at least 1")
        if not 1 <= self.stride <= self.length:
            raise UserError(
                f"windows of {self.length} tokens, {self.stride} apart: expected a stride from 1 "
                f"to {self.length}, so that every token is scored"
            )

    def __call__(self, ids: int) -> Sequence[Span]:
        if ids <= self.length + 1:
            return whole(ids)
        spans = [Span(0, self.length + 1, 1)]
        while spans[-1].stop < ids:
            scored = spans[-1].stop
            stop = min(scored + self.stride, ids)
            start = stop - self.length - 1
            spans.append(Span(start, stop, scored, first=start))
        return spans


@dataclass(frozen=True)
class Pieces:
    """Pieces of exactly `length` pairs, at most `most` of a document: each begins with an empty
    state, at position 0. What is left over at the end is not read."""

    length: int
    most: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1 or (self.most is not None and self.most < 1):
            raise UserError(f"{self.most} pieces of {self.length} tokens: expected at least 1")

    def __call__(self, ids: int) -> Sequence[Span]:
        count = max(ids - 1, 0) // self.length
        if self.most is not None:
            count = min(count, self.most)
        starts = [piece * self.length for piece in range(count)]
        return [
            Span(start, start + self.length + 1, start + 1, piece=piece)
            for piece, start in enumerate(starts)
        ]


def check_window(config: GriffinConfig, length: int) -> None:
    """Raises UserError: a model with global attention does not hold `length` keys."""
    if "global_attention" in config.block_types and length > config.context_length:
        raise UserError(
            f"windows of {length:,} tokens are longer than the context_length="
            f"{config.context_length:,} that this model's global attention holds: give a shorter "
            "--window"
        )


def check_document(config: GriffinConfig, name: str, pairs: int) -> None:
    """Raises UserError: a model with global attention does not hold a document of so many pairs."""
    most = config.context_length
    if "global_attention" in config.block_types and pairs > most:
        raise UserError(
            f"{name} has {pairs:,} tokens, and this model's global attention holds "
            f"context_length={most:,}: score it by sliding windows, --window {most} --stride "
            f"{max(most // 2, 1)}"
        )
