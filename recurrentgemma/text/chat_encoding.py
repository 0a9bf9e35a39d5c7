# SPDX-License-Identifier: Apache-2.0
"""From the text of a chat to its tokens: where a token must end, and what is no control token.

The text is what a chat format writes, in which two kinds of places are known. Control tokens that
a message spells stand between two marks, so that they become their characters. And a token ends
where an answer begins, because there the model begins to generate; so the tokens before an answer
are those that it was asked with.
"""

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from recurrentgemma.errors import UserError
from recurrentgemma.text.continuation import encode_continuation

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
_PRIVATE = range(0xF0000, 0xFFFFE)  # characters that Unicode leaves to us
_LEAD_CHARACTERS = 200  # characters before an answer that may change how it begins


class Marks(NamedTuple):
    """Characters that no message of a chat has: around a control token that a message spells, at
    the beginning of an answer, and at that of another message."""

    opening: str
    closing: str
    answer: str
    other: str


def free_marks(texts: Iterable[str]) -> Marks:
    """Marks that none of the texts has."""
    used = {c for text in texts if not text.isascii() for c in text if ord(c) >= _PRIVATE[0]}
    free = (chr(code) for code in _PRIVATE if chr(code) not in used)
    return Marks(next(free), next(free), next(free), next(free))


@dataclass(frozen=True)
class ChatText:
    """text: with the control tokens that messages spell between marks.opening and marks.closing.
    answers: where the answers begin in it, in order. bos: whether the tokenizer's bos goes before.
    """

    text: str
    answers: tuple[int, ...]
    marks: Marks
    bos: bool


class ChatEncoder:
    """The tokens of chats by one tokenizer.

    written: literals that a chat template writes as tokens, beside control tokens; None: no
    template writes the chats.
    """

    def __init__(self, tokenizer: "Tokenizer", written: Collection[str] | None = None) -> None:
        self._tokenizer = tokenizer
        known = {**tokenizer.other_tokens, **tokenizer.control_tokens}
        ids = {f"{name}_token": getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}
        roles = {tokenizer.roles[name]: i for name, i in ids.items() if name in tokenizer.roles}
        # Control tokens that `encode` does not find in a text, as those of SentencePiece.
        silent = {text: i for text, i in roles.items() if text not in known}
        self._silent = {} if written is None else silent
        self.ids: Mapping[str, int] = known | self._silent
        self._control = pattern(tokenizer.control_tokens)
        self._control_ids = {i: text for text, i in tokenizer.control_tokens.items()}
        unknown = tokenizer.control_tokens.get(tokenizer.roles.get("unk_token", ""))
        if unknown is not None and unknown not in (*ids.values(), *tokenizer.stop_ids):
            self._control_ids.pop(unknown, None)  # any character may become it, and it ends nothing
        control = {*tokenizer.control_tokens, *self._silent}
        self._spelt = {True: pattern(control), False: pattern({*control, *(written or ())})}

    def shield(self, text: str, marks: Marks, *, is_answer: bool) -> str:
        """A message with marks around the control tokens that it spells. An answer may write the
        tokens that are not control tokens, such as <think>."""
        return self._spelt[is_answer].sub(f"{marks.opening}\\g<0>{marks.closing}", text)

    def encode(self, chat: ChatText) -> tuple[list[int], list[int]]:
        """The tokens, and how many there are before each answer.

        Raises UserError: this tokenizer makes a control token of other characters, or does not
        find its own turn tokens.
        """
        ids: list[int] = []
        starts: list[int] = []
        before: str | None = None  # the text before, None where an id stands there
        begun = False
        for piece, begins_answer in self._pieces(chat):
            if begins_answer:
                starts.append(len(ids))
            if isinstance(piece, int):
                ids.append(piece)
                before = None
                continue
            if not begun:
                tokens = self._tokenizer.encode(piece, bos=chat.bos)
            else:
                context = self._context(before) if begins_answer and before else None
                tokens = encode_continuation(self._tokenizer, piece, context)
            has_bos = not begun and chat.bos and self._tokenizer.bos_id is not None
            self._check(piece, tokens[has_bos:])
            begun = begun or bool(piece) or chat.bos
            ids += tokens
            before = piece
        return ids, starts

    def _pieces(self, chat: ChatText) -> Iterator[tuple[str | int, bool]]:
        """Texts and ids, and whether an answer begins with them; a token ends after each."""
        cuts = [0, *chat.answers, len(chat.text)]
        special = _special(tuple(self._silent), chat.marks)
        for number in range(len(cuts) - 1):
            part, begins_answer, text = chat.text[cuts[number] : cuts[number + 1]], number > 0, ""
            end = 0
            for match in special.finditer(part):
                text += part[end : match.start()]
                end = match.end()
                spelt, silent = match.group("spelt"), match.group("silent")
                if spelt is not None and spelt in self._silent:
                    text += spelt
                    continue
                if spelt is not None:
                    text += spelt[:1]
                yield text, begins_answer
                text, begins_answer = "" if spelt is None else spelt[1:], False
                if silent is not None:
                    yield self._silent[silent], False
            yield text + part[end:], begins_answer

    def _context(self, text: str) -> str:
        """The end of a text, from its last control token on."""
        tail = text[-_LEAD_CHARACTERS:]
        starts = [match.start() for match in self._control.finditer(tail)]
        return tail[starts[-1] :] if starts else tail

    def _check(self, text: str, tokens: list[int]) -> None:
        spelt = Counter(self._control.findall(text))
        encoded = Counter(self._control_ids[i] for i in tokens if i in self._control_ids)
        for control in encoded:
            if encoded[control] > spelt[control]:
                raise UserError(
                    f"a message has characters that this tokenizer turns into {control}, which "
                    f"would begin or end a turn: remove them",
                    field="messages",
                )
        for control in (START_OF_TURN, END_OF_TURN):
            if encoded[control] < spelt[control]:
                raise UserError(
                    f"this tokenizer has a token {control} and does not find it in a text, so it "
                    f"cannot write this chat format: pass a plain prompt instead of messages"
                )


def pattern(literals: Iterable[str]) -> re.Pattern[str]:
    """Matches each of the literals, the longest of those that begin at one place."""
    longest_first = sorted(literals, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


@functools.lru_cache(maxsize=64)
def _special(silent: tuple[str, ...], marks: Marks) -> re.Pattern[str]:
    opening, closing = marks.opening, marks.closing
    return re.compile(
        f"{opening}(?P<spelt>[^{opening}{closing}]*){closing}|[{opening}{closing}]|"
        f"(?P<silent>{pattern(silent).pattern})",
        re.DOTALL,
    )
