# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids of which only the answers are learned from.

An example is the conversation as the tokenizer's chat template writes it, or Gemma's, up to the
token that ends the last answer, with which generation ends, too; what follows is not read. Without
a template (`?template=none`) it is BOS, the prompt, the response, EOS.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import AUTO, GEMMA, ChatFormat, Message, chat_format, check_text
from recurrentgemma.text.continuation import encode_continuation
from recurrentgemma.text.tokenizer import Tokenizer
from training.data import sources
from training.data.document import Document
from training.data.documents import BYTES_PER_TOKEN, SAMPLES, tokenizer_fingerprint
from training.data.sources.chat_lines import PLAIN, ChatLines, is_answer, shown


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

    Raises UserError: the tokenizer has neither a chat template nor Gemma's turns.
    """

    lengths = pair_sums = None

    def __init__(self, source: ChatLines, tokenizer: Tokenizer) -> None:
        self._source, self._tokenizer = source, tokenizer
        self.blocks = source.blocks
        self._format: ChatFormat | None = None
        if source.template != PLAIN:
            try:
                self._format = chat_format(tokenizer, GEMMA if source.template == GEMMA else AUTO)
            except UserError as error:
                raise UserError(
                    f"{source.spec!r}: {error}; with ?template=none prompt and response are plain "
                    f"text, one after the other"
                ) from None
        self.format_name = "none" if self._format is None else self._format.name
        self.format_shown = "none" if self._format is None else self._format.shown
        self.typical_length = source.size / len(source) / BYTES_PER_TOKEN
        name = f"{self.format_name} last" if source.last_only else self.format_name
        self.fingerprint = (
            f"{sources.fingerprint(source)} {name} {tokenizer_fingerprint(tokenizer)}"
        )

    def __len__(self) -> int:
        return len(self._source)

    def name(self, document: int) -> str:
        return self._source.name(document)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        """Raises ValueError that names the line, if it is no conversation with an answer."""
        talk = self._source.talk(document)
        try:
            if self._format is None:
                ids, learned = encode_plain(self._tokenizer, talk.messages)
            else:
                ids, learned = self._format.encode_answers(
                    talk.messages, tools=talk.tools, last_only=self._source.last_only
                )
        except UserError as error:
            raise UserError(f"{self.name(document)}: {error}") from None
        return Document(np.array(ids, np.int32), np.array(learned, bool)).cut(start, stop)

    def answer_bytes(self, document: int) -> int:
        """UTF-8 bytes of the answers of a document that are learned."""
        texts = [shown(m) for m in self._source.messages(document) if is_answer(m)]
        return sum(len(text.encode()) for text in (texts[-1:] if self._source.last_only else texts))

    def bytes_per_token(self) -> float | None:
        chosen = sources.spread(len(self), SAMPLES)
        targets = sum(self.read(number).learned_targets for number in chosen)
        text_bytes = sum(map(self.answer_bytes, chosen))
        return text_bytes / targets if text_bytes and targets else None


def encode_plain(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Without a template: BOS, the prompt, the response, EOS; and which tokens are the response's.

    Raises UserError: there are other messages than those two.
    """
    roles = [message["role"] for message in messages]
    if len(roles) != 2 or roles[0] != "user" or not is_answer(messages[1]):
        raise UserError(
            f"messages of {', '.join(roles)}: template=none knows one prompt and "
            f"one response, of user and assistant"
        )
    prompt, response = map(shown, messages)
    for content in (prompt, response):
        check_text(content)
    asked = tokenizer.encode(prompt)
    answer = encode_continuation(tokenizer, response, prompt)
    if tokenizer.eos_id is not None:
        answer = [*answer, tokenizer.eos_id]
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
