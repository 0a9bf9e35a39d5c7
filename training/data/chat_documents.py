# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids of which only the answers are learned from.

By Gemma's template an example is BOS, the turns, and the `<end_of_turn>` of the last answer, with
which generation ends; what follows the last answer is not read. Without a template it is BOS, the
prompt, the response, EOS.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import (
    END_OF_TURN,
    START_OF_TURN,
    Message,
    check_text,
    encode_answers,
)
from recurrentgemma.text.continuation import encode_continuation
from recurrentgemma.text.tokenizer import Tokenizer
from training.data import sources
from training.data.document import Document
from training.data.documents import BYTES_PER_TOKEN, SAMPLES, tokenizer_fingerprint
from training.data.sources.chat_lines import ANSWERS, ChatLines


@dataclasses.dataclass(frozen=True)
class Examples:
    """What sets of conversations come to, counted by reading all of them."""

    lengths: np.ndarray  # ids of each example
    learned: np.ndarray  # targets of its answers
    before: np.ndarray  # pairs before its first answer
    longest_name: str  # the file and line of the longest

    @property
    def tokens(self) -> int:
        """(token, target) pairs."""
        return int((self.lengths - 1).sum())

    @property
    def longest(self) -> int:
        """Pairs of the longest example."""
        return int(self.lengths.max()) - 1

    def describe(self, row_length: int) -> str:
        """One line, or two if some do not fit a row."""
        learned = int(self.learned.sum())
        line = (
            f"{len(self.lengths):,} examples, {self.tokens:,} tokens, of which {learned:,} "
            f"({learned / max(self.tokens, 1):.0%}) are answers to learn from; the longest, "
            f"{self.longest_name}, has {self.longest:,}"
        )
        if longer := int((self.lengths - 1 > row_length).sum()):
            late = int((self.before >= row_length).sum())
            line += (
                f"\n{longer:,} are longer than a row of {row_length:,} tokens, {late:,} of them "
                f"before their first answer begins"
            )
        return line


class ChatDocuments:
    """See `training.data.documents.Documents`: conversations, tokenised when they are read.

    Raises ValueError: the template needs turns and the tokenizer has none.
    """

    lengths = None
    blocks = None

    def __init__(self, source: ChatLines, tokenizer: Tokenizer) -> None:
        turns = {START_OF_TURN, END_OF_TURN} <= tokenizer.control_tokens.keys()
        if source.template == "gemma" and not turns:
            raise UserError(
                f"{source.spec!r}: this tokenizer has no {START_OF_TURN} and {END_OF_TURN}, so "
                f"Gemma's chat template cannot be written with it; with ?template=none prompt and "
                f"response are plain text, one after the other"
            )
        self._source, self._tokenizer = source, tokenizer
        self.typical_length = source.size / len(source) / BYTES_PER_TOKEN
        self.fingerprint = (
            f"{sources.fingerprint(source)} {source.template} {tokenizer_fingerprint(tokenizer)}"
        )

    def __len__(self) -> int:
        return len(self._source)

    def name(self, document: int) -> str:
        return self._source.name(document)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        """Raises ValueError that names the line, if it is no conversation with an answer."""
        messages = self._source.messages(document)
        try:
            if self._source.template == "none":
                ids, learned = self._plain(messages)
            else:
                ids, learned = encode_answers(self._tokenizer, messages)
        except ValueError as error:
            raise UserError(f"{self.name(document)}: {error}") from None
        return Document(np.array(ids, np.int32), np.array(learned, bool)).cut(start, stop)

    def answer_bytes(self, document: int) -> int:
        """UTF-8 bytes of the answers of a document."""
        messages = self._source.messages(document)
        return sum(len(m["content"].encode()) for m in messages if m["role"] in ANSWERS)

    def bytes_per_token(self) -> float | None:
        chosen = sources.spread(len(self), SAMPLES)
        targets = sum(self.read(number).learned_targets for number in chosen)
        text_bytes = sum(map(self.answer_bytes, chosen))
        return text_bytes / targets if text_bytes and targets else None

    def _plain(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        roles = [message["role"] for message in messages]
        if len(roles) != 2 or roles[0] != "user" or roles[1] not in ANSWERS:
            raise UserError(
                f"messages of {', '.join(roles)}: template=none knows one prompt and "
                f"one response, of user and assistant"
            )
        prompt, response = (message["content"] for message in messages)
        for content in (prompt, response):
            check_text(content)
        asked = self._tokenizer.encode(prompt)
        answer = encode_continuation(self._tokenizer, response, prompt)
        if self._tokenizer.eos_id is not None:
            answer = [*answer, self._tokenizer.eos_id]
        return asked + answer, [False] * len(asked) + [True] * len(answer)


def count_examples(parts: Sequence[ChatDocuments]) -> Examples:
    """Read everything. Raises ValueError at the first example that cannot be learned from."""

    def count(document: Document) -> tuple[int, int, int]:
        assert document.learned is not None
        before = int(document.learned[1:].argmax())
        return len(document.ids), document.learned_targets, before

    counts: list[tuple[int, int, int]] = []
    with ThreadPoolExecutor() as pool:  # tokenizers work outside of the interpreter's lock
        for part in parts:
            counts += pool.map(lambda n, part=part: count(part.read(n)), range(len(part)))
    lengths, learned, before = np.array(counts, np.int64).T
    longest, part = int(lengths.argmax()), 0
    while longest >= len(parts[part]):
        longest -= len(parts[part])
        part += 1
    return Examples(lengths, learned, before, parts[part].name(longest))
