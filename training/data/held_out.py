# SPDX-License-Identifier: Apache-2.0
"""Documents to be scored on, with the bytes of text that they spell."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recurrentgemma.text.tokenizer import Tokenizer, check_vocabulary, tokenizer_fingerprint
from training.data import sources
from training.data.chat_documents import ChatDocuments
from training.data.document import Document
from training.data.sources import TextSource, open_data_source
from training.data.sources.chat_lines import ChatLines
from training.data.sources.text_files import TextFiles
from training.data.token_shards import TokenShards


class HeldOut(NamedTuple):
    """A document to be scored on: ids after the tokenizer's BOS, without EOS, which of them are
    scored (None: all), and the UTF-8 bytes of the text that those spell. Of a conversation only
    the answers are scored."""

    name: str
    document: Document
    bytes: int


class HeldOutDocuments:
    """The documents of a source to be scored on, by number; each is read when it is asked for."""

    def __init__(self, source: TextSource | TokenShards, tokenizer: Tokenizer) -> None:
        self._source, self._tokenizer = source, tokenizer
        self._chats = ChatDocuments(source, tokenizer) if isinstance(source, ChatLines) else None
        self.spec = source.spec

    def __len__(self) -> int:
        return len(self._source)

    @property
    def fingerprint(self) -> str:
        """Tells other documents, and the same ones in another tokenizer's ids, apart."""
        if self._chats is not None:
            return self._chats.fingerprint
        if isinstance(self._source, TokenShards):
            return self._source.fingerprint
        return f"{sources.fingerprint(self._source)} {tokenizer_fingerprint(self._tokenizer)}"

    @property
    def sizes(self) -> np.ndarray | None:
        """About how many bytes of text each document has; None where only reading it can tell."""
        if isinstance(self._source, TokenShards):
            return self._source.text_bytes
        if isinstance(self._source, TextFiles):
            names = map(self._source.name, range(len(self)))
            return np.array([os.path.getsize(name) for name in names], np.int64)
        return None

    def read(self, number: int, limit: int | None = None) -> HeldOut:
        """A document, or its first `limit` ids."""
        source, tokenizer = self._source, self._tokenizer
        name = source.name(number)
        if self._chats is not None:
            document, text_bytes = self._chats.read(number), self._chats.answer_bytes(number)
            assert document.learned is not None
            stops = np.isin(document.ids, tokenizer.stop_ids)
            document = Document(document.ids, document.learned & ~stops)
        elif isinstance(source, TokenShards):
            document, text_bytes = source.read(number), int(source.text_bytes[number])
            ids = document.ids
            if source.eos_id is not None and len(ids) and ids[-1] == source.eos_id:
                document = document.cut(0, -1)
        else:
            text = source[number]
            text_bytes = len(text.encode())
            document = Document(np.array(tokenizer.encode(text), np.int32))
        if limit is not None and len(document.ids) > limit:
            document = document.cut(0, limit)
            scored = document.ids if document.learned is None else document.ids[document.learned]
            text_bytes = len(tokenizer.decode(scored.tolist()).encode())
        return HeldOut(name, document, text_bytes)


def open_held_out(spec: str, tokenizer: Tokenizer, *, vocab_size: int) -> HeldOutDocuments:
    """The documents of the source that a spec names, as a model's ids.

    Raises UserError: it cannot be opened, another tokenizer made it, or the tokenizer has ids that
    a model of `vocab_size` has no embeddings for.
    """
    check_vocabulary(tokenizer, vocab_size)
    source = open_data_source(spec)
    if isinstance(source, TokenShards):
        source.check(tokenizer_fingerprint(tokenizer), vocab_size)
    return HeldOutDocuments(source, tokenizer)


def held_out_of(
    source: TextSource | TokenShards, tokenizer: Tokenizer, limit: int | None = None
) -> Iterator[HeldOut]:
    """The documents of a source to be scored on, or the first `limit` ids of each."""
    documents = HeldOutDocuments(source, tokenizer)
    return (documents.read(number, limit) for number in range(len(documents)))
