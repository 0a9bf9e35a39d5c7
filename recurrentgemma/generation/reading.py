# SPDX-License-Identifier: Apache-2.0
"""How far one sequence has been read: a value that never changes, and what leads to the next one.

    reader = Reader(generator, tokenizer)
    point = reader.add_text(START, "Call me Ish")
    point = reader.add_text(point, "mael.")     # the ids of "Call me Ishmael."
    ready = reader.ready(point)                 # one token is left, with which decoding begins

Nothing is read before it must be, or fills a chunk of the largest size, so that a text in pieces is
read in the chunks of the whole text: the state has the same bits, whatever the pieces were.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from recurrentgemma.errors import UserError
from recurrentgemma.generation import walk
from recurrentgemma.generation.decode import Generator
from recurrentgemma.state import State
from recurrentgemma.text import pieces
from recurrentgemma.text.pieces import HeldText
from recurrentgemma.text.tokenizer import Tokenizer

LOOKBACK_TOKENS = 48  # tokens from which the text of an answer is decoded; no decoder looks at more


class Point(NamedTuple):
    """Where a sequence stands. Its arrays are never donated, so points share them."""

    state: State | None = None  # of all tokens but `unread`; None: nothing was read
    unread: tuple[int, ...] = ()  # the last tokens, at least one where there is any
    count: int = 0  # tokens, those unread included
    context: tuple[int, ...] = ()  # the last of them
    held: HeldText = HeldText()  # text after them that is no tokens yet
    after: State | None = None  # of all tokens, `unread` included, where it is known
    messages: tuple[tuple[str, str], ...] = ()  # of a chat: (role, content)
    adapter: str = ""  # version of the adapter that its state was, or will be, computed with


START = Point()


class Reader:
    """Moves points of one model forward. A point given stays as it is; one that is interrupted on
    the way, or fails, leaves nothing behind.

    tokenizer: None where only token ids will be added.
    """

    def __init__(self, generator: Generator, tokenizer: Tokenizer | None):
        self.generator, self._tokenizer = generator, tokenizer

    def add_text(self, point: Point, text: str) -> Point:
        """What `text` makes certain becomes tokens; the rest is held back."""
        point = point._replace(held=point.held._replace(text=point.held.text + text))
        if len(point.held.text) <= pieces.HELD:
            return point
        return self._add_certain(point)

    def add_ids(self, point: Point, ids: Sequence[int]) -> Point:
        """A token ends where the text held back ends, and `ids` follow it."""
        if not ids:
            return point
        return self._append(point, [*self.held_ids(point), *ids], HeldText(before=None))

    def ended(self, point: Point) -> Point:
        """The text held back ends: all of it is tokens."""
        if not point.held.text:
            return point
        return self._append(point, self.held_ids(point), HeldText(before=None))

    def settled(self, point: Point) -> Point:
        """The same text, as far as possible read: what follows need not read it again."""
        if point.held.text:
            point = self._add_certain(point)
        return self.all_but_last(point) if len(point.unread) > 1 and not point.after else point

    def ready(self, point: Point) -> Point:
        """`ended`, and all but its last token are read.

        Raises:
          UserError: there is no token.
        """
        point = self.ended(point)
        require_tokens(point)
        return self.all_but_last(point)

    def with_after(self, point: Point) -> Point:
        """A point that is ready, with the state after its last token."""
        if point.after is None:
            point = point._replace(after=self._read(point.unread, point.state))
        return point

    def held_ids(self, point: Point) -> list[int]:
        """The ids of the text held back, if it ends here."""
        if not point.held.text:
            return []
        assert self._tokenizer is not None
        return pieces.ids_of(self._tokenizer, point.held)

    def _add_certain(self, point: Point) -> Point:
        assert self._tokenizer is not None
        return self._append(point, *pieces.certain(self._tokenizer, point.held))

    def _append(self, point: Point, ids: Sequence[int], held: HeldText) -> Point:
        """`ids` become tokens, and whole chunks of the largest size are read."""
        if not ids:
            return point._replace(held=held)
        state, unread = point.state, [*point.unread, *ids]
        if point.after is not None:
            state, unread = point.after, list(ids)
        largest = walk.CHUNKS[-1]
        whole = (len(unread) - 1) // largest * largest
        if whole:
            state = self._read(unread[:whole], state)
        return point._replace(
            state=state,
            unread=tuple(unread[whole:]),
            count=point.count + len(ids),
            context=(*point.context, *ids[-LOOKBACK_TOKENS:])[-LOOKBACK_TOKENS:],
            held=held,
            after=None,
        )

    def all_but_last(self, point: Point) -> Point:
        """All tokens but the last one are read; text that is held back stays so."""
        *earlier, last = point.unread
        if not earlier and point.state is not None:
            return point
        return point._replace(state=self._read(earlier, point.state), unread=(last,))

    def _read(self, tokens: Sequence[int], state: State | None) -> State:
        """Waits for the state, so that what goes wrong does so before anybody has it."""
        return jax.block_until_ready(self.generator.read(tokens, state))


def answered(point: Point, tokens: Sequence[int], text: str = "") -> Point:
    """`point`, which is ready, with tokens that were generated after it, and a piece of text."""
    return point._replace(
        unread=(*point.unread, *tokens),
        count=point.count + len(tokens),
        context=(*point.context, *tokens)[-LOOKBACK_TOKENS:],
        held=HeldText(text, None),
        after=None if tokens else point.after,
    )


def require_tokens(point: Point) -> None:
    """Raises UserError: there is no token."""
    if not point.unread:
        raise UserError(
            "the session is empty: read at least one character or token, such as "
            "[lm.tokenizer.bos_id] for a text from its very beginning"
        )
