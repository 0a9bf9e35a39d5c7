# SPDX-License-Identifier: Apache-2.0
"""Tokens to text as they come: no half characters, and nothing of a stop string."""

import copy
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recurrentgemma.errors import UserError

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

_UNSURE = "\ufffd"  # what unfinished UTF-8 decodes as; at most three bytes of a character are
_WINDOW = 48  # tokens decoded anew at each push, before those at the front are let go ...
_KEPT = 8  # ... but for about so many


class StreamDecoder:
    """The text that follows `context`, in pieces: together exactly what all ids decode to.

    decode(context + ids) = decode(context) + "".join(pieces), where `context`, the prompt, has the
    tokenizer decide on such things as the space before the first word.
    """

    def __init__(self, tokenizer: "Tokenizer", context: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._window = [int(i) for i in context[-_WINDOW:]]
        self._sent = tokenizer.decode(self._window)
        self._limit = _WINDOW
        self._forget()

    def push(self, ids: Sequence[int]) -> str:
        """Take `ids` and return the text that they make certain, "" if there is none yet."""
        self._window += [int(i) for i in ids]
        if not self._tokenizer.settled(self._window):
            return ""
        text = self._tokenizer.decode(self._window)
        unsure = min(3, len(text) - len(text.rstrip(_UNSURE)))
        piece = self._emit(text[: len(text) - unsure])
        if len(self._window) > self._limit:
            self._forget()
        return piece

    def finish(self) -> str:
        """The text held back, an unfinished character as U+FFFD. The stream is over."""
        return self._emit(self._tokenizer.decode(self._window))

    @property
    def held(self) -> str:
        """What `finish` would return."""
        return copy.copy(self).finish()

    def _emit(self, text: str) -> str:
        if not text.startswith(self._sent):
            if self._sent.startswith(text):
                return ""
            # The context ended inside of a character, which these ids have made another one.
            pairs = zip(self._sent, text, strict=False)
            self._sent = "".join(
                a for a, _ in itertools.takewhile(lambda ab: ab[0] == ab[1], pairs)
            )
        piece = text[len(self._sent) :]
        self._sent = text
        return piece

    def _forget(self) -> None:
        """Drop the front of the window where the rest decodes the same without it."""
        decode, window = self._tokenizer.decode, self._window
        text = decode(window)
        unsent = text[len(self._sent) :]
        for i in range(len(window) - _KEPT, max(0, len(window) - 2 * _KEPT), -1):
            tail = decode(window[i:])
            # Something sent must stay: it holds the end of what is unsure, or of the text's space.
            if text.endswith(tail) and len(tail) > len(unsent):
                self._window = window[i:]
                self._sent = tail[: len(tail) - len(unsent)]
                break
        self._limit = max(_WINDOW, 2 * len(self._window))


class StopScanner:
    """Cuts a stream of text before the first stop string to be complete.

    Of several that are complete at the same character, the longest counts. Text that may be the
    beginning of a stop string is held back. Raises ValueError for an empty stop string.
    """

    def __init__(self, stop: Sequence[str] = ()):
        if isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
            raise UserError(f"stop is {stop!r}: expected a sequence of strings, none of them empty")
        self.stopped = False
        self.scans = bool(stop)
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> str:
        """Take `text` and return what is certain to stand before any stop string."""
        if self.stopped:
            return ""
        self._held += text
        starts = [(self._held.find(s) + len(s), -len(s)) for s in self._stop if s in self._held]
        if starts:
            end, negative_length = min(starts)
            self.stopped = True
            return self._take(end + negative_length)
        return self._take(len(self._held) - max(map(self._overlap, self._stop), default=0))

    @property
    def holds(self) -> bool:
        """Whether there is text that may be the beginning of a stop string."""
        return self._held != ""

    def finish(self) -> str:
        """The text held back that turned out not to be a stop string."""
        return "" if self.stopped else self._take(len(self._held))

    def _take(self, size: int) -> str:
        piece, self._held = self._held[:size], self._held[size:]
        return piece

    def _overlap(self, stop: str) -> int:
        """How much of the end of the text held may be the beginning of `stop`."""
        sizes = range(min(len(stop) - 1, len(self._held)), 0, -1)
        return next((n for n in sizes if self._held.endswith(stop[:n])), 0)


class TextStream:
    """The text of one answer, in pieces, cut before the first stop string.

    context: the tokens that the answer follows.
    """

    def __init__(self, tokenizer: "Tokenizer", context: Sequence[int], stop: Sequence[str] = ()):
        self._decoder = StreamDecoder(tokenizer, context)
        self._scanner = StopScanner(stop)

    @property
    def scans(self) -> bool:
        """Whether there is a stop string to look for."""
        return self._scanner.scans

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._scanner.stopped

    @property
    def holds(self) -> bool:
        """Whether the tokens pushed so far are more than the text returned."""
        return self.stopped or self._scanner.holds or self._decoder.held != ""

    def push(self, ids: Sequence[int]) -> str:
        """Take `ids` and return the text that they make certain."""
        return self._scanner.push(self._decoder.push(ids))

    def finish(self) -> str:
        """The rest of the text. The stream is over."""
        return self._scanner.push(self._decoder.finish()) + self._scanner.finish()


def tokens_within(
    tokenizer: "Tokenizer", context: Sequence[int], tokens: Sequence[int], text: str
) -> tuple[int, str]:
    """How many of `tokens`, which follow `context`, make a beginning of `text`; and its rest.

    `text` is a beginning of what they decode to: it may end inside of a token.
    """
    decoder = StreamDecoder(tokenizer, context)
    length, count, covered = 0, 0, 0
    for number, token in enumerate(tokens, 1):
        length += len(decoder.push([token]))
        if length > len(text):
            break
        if not decoder.held:
            count, covered = number, length
    return count, text[covered:]
