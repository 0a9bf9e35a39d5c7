# SPDX-License-Identifier: Apache-2.0
"""Text that comes in pieces, to the ids of the whole text: what a later piece may change waits.

    pieces: "Hel", "lo wor", "ld"    ids: those of "Hello world"

A token can reach from one piece into the next, so text is held back until it must become ids
(`ids_of`), or until so much of it is there that its beginning is certain (`certain`). A cut is
certain where these hold:

1. It stands before a space that follows something else than white space, and no piece of the
   vocabulary goes across such a place; or it has 256 characters after it.
2. The tokenizer, given both sides as one text, ends a token there, and gives the same ids before it
   as without what follows.

Before a space this is exact for tokenizers that split a text into words first, and for those that
merge the pieces of a vocabulary (BPE, Unigram) without: no merge crosses the place, whatever comes
after. Elsewhere (text without spaces) it rests on 256 characters that did not change it. Up to
`HELD` characters nothing is cut, and every tokenizer gives the ids of the whole text.
"""

import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from recurrentgemma.text.continuation import encode_continuation

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

HELD = 4096  # characters that wait without being looked at
MOST = 2**16  # characters after which a text is cut even where that is not certain
CUT_MARGIN = 256  # characters looked at on the left of a cut, and on its right where no word ends
TRIED = 16  # places to cut at

_WORD_ENDS = re.compile(r"(?<=\S)(?= )")


class HeldText(NamedTuple):
    """Text whose ids are not certain yet, and what it follows."""

    text: str = ""
    before: str | None = ""
    """The last characters before it; "" where it begins a document; None where a token ended that
    was not read as text, whatever that was."""


def ids_of(tokenizer: "Tokenizer", held: HeldText) -> list[int]:
    """The ids of the text held back, if it ends here."""
    if not held.text:
        return []
    if held.before == "":
        return tokenizer.encode(held.text)
    return encode_continuation(tokenizer, held.text, held.before)


def certain(tokenizer: "Tokenizer", held: HeldText) -> tuple[list[int], HeldText]:
    """The ids that no text to come can change, and the text that goes on being held back."""
    for cut in itertools.islice(_cuts(tokenizer, held.text), TRIED):
        before, after = held.text[max(0, cut - CUT_MARGIN) : cut], held.text[cut:]
        known = tokenizer.encode(before, bos=False)
        if known and tokenizer.encode(before + after, bos=False)[: len(known)] == known:
            return _cut(tokenizer, held, cut)
    if len(held.text) > MOST:
        return _cut(tokenizer, held, len(held.text) - CUT_MARGIN)
    return [], held


def _cuts(tokenizer: "Tokenizer", text: str) -> Iterator[int]:
    """Places to cut at, the last one first."""
    start = max(1, len(text) - 4 * CUT_MARGIN)
    if not tokenizer.joins_words:
        ends = [match.start() for match in _WORD_ENDS.finditer(text, start)]
        yield from reversed(ends[-TRIED // 2 :])
    yield from range(len(text) - CUT_MARGIN, start, -1)


def _cut(tokenizer: "Tokenizer", held: HeldText, cut: int) -> tuple[list[int], HeldText]:
    left, right = held.text[:cut], held.text[cut:]
    return ids_of(tokenizer, held._replace(text=left)), HeldText(right, left[-CUT_MARGIN:])


def joins_words(vocabulary: "list[str]") -> bool:
    """Whether a piece goes on after a word with a space, so that no space surely begins a token.

    vocabulary: with spaces as SentencePiece (U+2581) or as byte-level tokenizers (U+0120) write
      them.
    """
    return _JOINED.search("\n".join(vocabulary)) is not None


_JOINED = re.compile("[^\\s\u2581\u0120\u010a\u010d\u0109][\u2581\u0120 ]")  # the last: \n, \r, \t
