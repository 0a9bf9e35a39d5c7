# SPDX-License-Identifier: Apache-2.0
"""The documents of an evaluation, by number over all its sources, each read when its turn comes.

    documents = SourceDocuments(("text:books/*.txt", "jsonl:web.jsonl"), tokenizer, vocab_size=512)
    for number, held_out in read_ahead(documents, documents.order()): ...

A document is BOS, where the tokenizer has one, and the text's ids; a conversation's loss mask
leaves only its answers in (training/data/held_out.py).
"""

import bisect
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer
from training.data.held_out import HeldOut, open_held_out


class Documents(Protocol):
    """What is scored."""

    @property
    def sources(self) -> Sequence[str]:
        """The specs of the sources, as they were written."""
        ...

    @property
    def fingerprint(self) -> str:
        """Tells other documents, and the same ones in another tokenizer's ids, apart."""
        ...

    def __len__(self) -> int: ...

    def source_of(self, number: int) -> int:
        """Which of the sources a document is of."""
        ...

    def read(self, number: int) -> HeldOut: ...

    def order(self) -> Sequence[int]:
        """All numbers, in the order in which the documents are best read: the longest first, where
        their sizes are known, lest a long one be left over at the end."""
        ...


class SourceDocuments:
    """The documents of sources, as `griffin data` writes them.

    Raises UserError: there is no source, or one cannot be opened (training/data/held_out.py).
    """

    def __init__(self, specs: Sequence[str], tokenizer: Tokenizer, *, vocab_size: int) -> None:
        if not specs:
            raise UserError("there is nothing to evaluate on: give --data SOURCE...")
        self.sources = tuple(specs)
        self._parts = [open_held_out(spec, tokenizer, vocab_size=vocab_size) for spec in specs]
        self._ends = np.cumsum([len(part) for part in self._parts]).tolist()
        digest = hashlib.sha256("\n".join(part.fingerprint for part in self._parts).encode())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return self._ends[-1]

    def source_of(self, number: int) -> int:
        return bisect.bisect_right(self._ends, number)

    def read(self, number: int) -> HeldOut:
        source = self.source_of(number)
        return self._parts[source].read(number - self._ends[source] + len(self._parts[source]))

    def order(self) -> Sequence[int]:
        sizes = [part.sizes for part in self._parts]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return range(len(self))
        return np.argsort(-np.concatenate(known).astype(np.int64), kind="stable").tolist()


class InMemory:
    """Documents that are there already."""

    sources = ("memory",)

    def __init__(self, documents: Iterable[HeldOut]) -> None:
        self._documents = list(documents)
        digest = hashlib.sha256()
        for _, document, _ in self._documents:
            digest.update(len(document.ids).to_bytes(8, "little") + document.ids.tobytes())
            if document.learned is not None:
                digest.update(b"learned" + document.learned.tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._documents)

    def source_of(self, number: int) -> int:
        return 0

    def read(self, number: int) -> HeldOut:
        return self._documents[number]

    def order(self) -> Sequence[int]:
        return sorted(range(len(self)), key=lambda n: -len(self._documents[n].document.ids))


def read_ahead(documents: Documents, numbers: Iterable[int]) -> Iterator[tuple[int, HeldOut]]:
    """Numbers and their documents; the next one is read meanwhile, by a thread."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for number in numbers:
            following = (number, pool.submit(documents.read, number))
            if ahead is not None:
                yield ahead[0], ahead[1].result()
            ahead = following
        if ahead is not None:
            yield ahead[0], ahead[1].result()
