# SPDX-License-Identifier: Apache-2.0
"""Documents as token ids, by number; and several sources of them, mixed by weight.

A document is BOS, the text's ids, EOS, where the tokenizer has them. One of n ids gives n - 1 pairs
(token, target = the next id).
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from checkpoints import hub
from checkpoints.hub_names import hint
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from recurrentgemma.text.tokenizer import tokenizer_fingerprint as tokenizer_fingerprint
from training.data import sources
from training.data.document import Document
from training.data.sums import pairs_of, sum_blocks

SAMPLES = 32  # documents from which bytes per token is estimated
BYTES_PER_TOKEN = 4.0  # a guess, where a guess will do


class Documents(Protocol):
    """What batches are made of. Safe to read from several threads."""

    @property
    def fingerprint(self) -> str:
        """Tells other documents, and the same ones in another tokenizer's ids, apart."""
        ...

    @property
    def lengths(self) -> np.ndarray | None:
        """The number of ids of each document; None where only reading it can tell."""
        ...

    @property
    def pair_sums(self) -> np.ndarray | None:
        """The (token, target) pairs before each block of documents, and all of them: see
        `training.data.sums`. None where lengths are."""
        ...

    @property
    def blocks(self) -> np.ndarray | None:
        """See `training.data.sources.TextSource`."""
        ...

    @property
    def typical_length(self) -> float:
        """About how many ids a document has; exactly the mean where lengths are known."""
        ...

    def __len__(self) -> int: ...

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        """The ids [start:stop] of a document, with their loss mask."""
        ...

    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of text for each target that is learned from, perhaps of a sample; None where
        it is not known, or there is no text."""
        ...


class InMemory:
    """Documents, or the ids of documents that are learned whole. `text_bytes`: of UTF-8, of all
    texts."""

    blocks = None

    def __init__(
        self, documents: Sequence[np.ndarray | Document], *, text_bytes: int | None = None
    ) -> None:
        self._documents = [
            d if isinstance(d, Document) else Document(np.asarray(d, np.int32)) for d in documents
        ]
        self._text_bytes = text_bytes
        self.lengths = np.array([len(document.ids) for document in self._documents], np.int64)
        self.typical_length = float(self.lengths.mean()) if documents else 0.0
        digest = hashlib.sha256()
        for document in self._documents:
            digest.update(len(document.ids).to_bytes(8, "little") + document.ids.tobytes())
            if document.learned is not None:
                digest.update(b"learned" + document.learned.tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def pair_sums(self) -> np.ndarray | None:
        return None if self.lengths is None else sum_blocks(self.lengths, pairs_of)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        return self._documents[document].cut(start, stop)

    def bytes_per_token(self) -> float | None:
        targets = sum(document.learned_targets for document in self._documents)
        return self._text_bytes / targets if self._text_bytes and targets else None


class Tokenized:
    """The texts of a source, tokenised when they are read."""

    lengths = pair_sums = None

    def __init__(self, source: sources.TextSource, tokenizer: Tokenizer) -> None:
        self._source, self._tokenizer = source, tokenizer
        self.blocks = source.blocks
        self.typical_length = source.size / len(source) / BYTES_PER_TOKEN
        self.fingerprint = f"{sources.fingerprint(source)} {tokenizer_fingerprint(tokenizer)}"

    def __len__(self) -> int:
        return len(self._source)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        return Document(document_ids(self._tokenizer, self._source[document])[start:stop])

    def in_memory(self, threads: int = 0) -> InMemory:
        """All of them, tokenised now. threads: 0: one a core. Raises UserError: see the source."""
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            read = list(pool.map(self._ids_and_bytes, range(len(self))))
        return InMemory([ids for ids, _ in read], text_bytes=sum(size for _, size in read))

    def _ids_and_bytes(self, document: int) -> tuple[np.ndarray, int]:
        text = self._source[document]
        return document_ids(self._tokenizer, text), len(text.encode())

    def bytes_per_token(self) -> float | None:
        text_bytes = pairs = 0
        for index in sources.spread(len(self), SAMPLES):
            ids, size = self._ids_and_bytes(index)
            text_bytes += size
            pairs += max(len(ids) - 1, 0)
        return text_bytes / pairs if text_bytes and pairs else None


@dataclass(frozen=True)
class Mixture:
    """Documents of several sources. A weight is a source's share of the tokens, up to a common
    factor.

    Raises ValueError: nothing to mix, or weights that do not fit.
    """

    parts: tuple[Documents, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("there are no sources to train on; name at least one")
        check_weights(self.weights, len(self.parts))

    def bytes_per_token(self) -> float | None:
        """Of the mixture; None where a source does not know it."""
        known = [part.bytes_per_token() for part in self.parts]
        shares = zip(known, self.weights, strict=True)
        whole = sum(self.weights)
        return None if None in known else sum(b * w for b, w in shares if b is not None) / whole


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raises ValueError unless there is one weight a source, each above 0 and finite."""
    if len(weights) != count:
        raise UserError(
            f"{len(weights)} weights for {count} sources; give one weight a source, in their order"
        )
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise UserError(f"weight {weight}: expected a number above 0; leave the source out")


def document_ids(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of a document to learn from: BOS, the text, EOS, where the tokenizer has them."""
    ids = tokenizer.encode(text)
    return np.array(ids if tokenizer.eos_id is None else [*ids, tokenizer.eos_id], np.int32)


def load_named_tokenizer(name: str, vocab_size: int | None = None) -> Tokenizer:
    """`bytes`, or the tokenizer at a path or of a model's name on a hub, for a model with
    vocab_size embeddings if it is given. Raises ValueError: there is none."""
    if name == "bytes":
        return ByteTokenizer()
    path = hub.local_path(name, "small")
    if not path.exists():
        raise UserError(f"there is no tokenizer file {path}{hint(name)}")
    return load_tokenizer(path, vocab_size)
