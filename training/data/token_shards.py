# SPDX-License-Identifier: Apache-2.0
"""Documents that were tokenised ahead of time: what `griffin data tokenize` writes.

    DIR/tokens.json                          tokenizer, dtype, counts; each shard's size and SHA-256
    DIR/documents.npy                        uint32 [2, documents]: ids, and UTF-8 bytes, of each
                                             (int64 if a document is too long for that)
    DIR/sums.npy                             int64 [2, blocks + 1]: pairs, and records, before each
                                             block of documents, and of all (see `sums.py`)
    DIR/tokens-00000-of-00004.array_record   ids, little-endian, RECORD of them a record
    DIR/tokenizer.model                      or another tokenizer file

Documents follow each other in the order of their sources. A document longer than RECORD ids takes
several records, so that a piece of a long one is read without the rest. How long each document is
stands in documents.npy: no record is read to know it. That and the sums are mapped into memory, so
opening a billion documents costs what opening ten does; where there are no sums, as in folders from
before there were any, they are counted from the lengths.
"""

import bisect
import fnmatch
import glob
import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer, load_tokenizer
from training.data.document import Document
from training.data.sums import BLOCK, HELD, give_back, pairs_of, sum_blocks

METADATA, INDEX, SUMS = "tokens.json", "documents.npy", "sums.npy"
UNFINISHED = "plan.json"  # until tokens.json is there
VERSION = 1
RECORD = 1 << 16  # ids
PLACED = 2048  # blocks of documents of which it is kept where they are
AGAIN = "run the same `griffin data tokenize` again, which makes only what is missing"


def shard_name(number: int, count: int) -> str:
    return f"tokens-{number:05}-of-{count:05}.array_record"


def holds_tokens(directory: str | Path) -> bool:
    """Whether `griffin data tokenize` wrote, or is writing, this directory."""
    return any((Path(directory) / name).is_file() for name in (METADATA, UNFINISHED))


def read_metadata(directory: str | Path) -> dict[str, Any]:
    """The content of tokens.json. Raises ValueError: it is missing, damaged or of a later
    version."""
    path = Path(directory) / METADATA
    if not path.is_file():
        raise UserError(f"{directory} was not tokenised to the end; {AGAIN}")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        version = metadata["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged: remove it and {AGAIN}") from None
    if version != VERSION:
        raise UserError(f"{path} has version {version}, expected {VERSION}: tokenise again")
    return metadata


@dataclass
class _Instruction:
    """Tells ArrayRecordDataSource how many records a file has, so that it need not look."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class TokenShards:
    """See `training.data.documents.Documents`. `pattern` chooses some of the shards; the directory
    itself means all.

    Raises ValueError: a shard is missing or has another size than when it was written.
    """

    blocks = None

    def __init__(
        self, directory: str | Path, pattern: str | None = None, *, spec: str = ""
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.spec = spec or f"arrayrecord:{directory}"
        metadata = read_metadata(self.directory)
        shards = metadata["shards"]
        chosen = self._choose(pattern, len(shards))
        for number in chosen:
            _check_file(self.directory / shard_name(number, len(shards)), shards[number])
        index = map_array(self.directory / INDEX, metadata["documents"])
        if len(chosen) < len(shards):
            ends = np.cumsum([0, *(shard["documents"] for shard in shards)])
            index = _parts(index, [(int(ends[n]), int(ends[n + 1])) for n in chosen])
        self.lengths: np.ndarray = index[0]
        self.text_bytes: np.ndarray = index[1]
        if len(chosen) == len(shards) and (self.directory / SUMS).exists():
            sums = map_array(self.directory / SUMS, -(-len(self) // BLOCK) + 1)
        else:
            sums = sum_index(self.lengths)
        self.pair_sums: np.ndarray = sums[0]
        self._record_sums: np.ndarray = sums[1]
        self._block = lru_cache(maxsize=PLACED)(self._place_block)
        self._placed_blocks = 0
        self.dtype = np.dtype(metadata["dtype"]).newbyteorder("<")
        self.vocab_size: int = metadata["vocab_size"]
        self.eos_id: int | None = metadata["eos_id"]
        self.tokens = sum(shards[n]["tokens"] for n in chosen)
        self.typical_length = self.tokens / len(self)
        self._tokenizer: str = metadata["tokenizer"]
        ends = np.cumsum([shards[n]["documents"] for n in chosen])
        self._shard_ends: list[int] = ends.tolist()
        self.bytes: int = sum(shards[n]["bytes"] for n in chosen)
        self._files = [str(self.directory / shard_name(n, len(shards))) for n in chosen]
        firsts = [self.place(document)[1] for document in [0, *self._shard_ends[:-1]]]
        takes = np.diff([*firsts, int(self._record_sums[-1])]).tolist()
        self._records = ArrayRecordDataSource(
            [_Instruction(f, 0, take, take) for f, take in zip(self._files, takes, strict=True)]
        )
        content = json.dumps([metadata["tokenizer"], *(shards[n]["sha256"] for n in chosen)])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.lengths)

    def name(self, document: int) -> str:
        return f"{self.spec}, document {document}"

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        """The ids [start:stop] of a document. Raises ValueError if the shard is damaged."""
        length, zero = self.place(document)
        stop = length if stop is None else min(stop, length)
        if start >= stop:
            return Document(np.zeros(0, np.int32))
        first, last = start // RECORD, (stop - 1) // RECORD
        try:
            raw = [self._records[zero + record] for record in range(first, last + 1)]
        except RuntimeError as error:
            file = self._files[bisect.bisect_right(self._shard_ends, document)]
            raise UserError(f"{file} is damaged ({error}): delete it and {AGAIN}") from None
        ids = np.frombuffer(b"".join(raw), self.dtype)
        return Document(ids[start - first * RECORD : stop - first * RECORD].astype(np.int32))

    def bytes_per_token(self) -> float | None:
        pairs = int(self.pair_sums[-1])
        return self.bytes / pairs if self.bytes and pairs else None

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote them."""
        return load_tokenizer(self.directory)

    def check(self, fingerprint: str, vocab_size: int | None = None) -> None:
        """Raises ValueError: another tokenizer wrote them, or the model's vocabulary is smaller."""
        if fingerprint != self._tokenizer:
            raise UserError(
                f"{self.spec} was tokenised by another tokenizer than the run's (fingerprint "
                f"{self._tokenizer}, the run has {fingerprint}): use the one in {self.directory}, "
                f"or tokenise the text again with the run's"
            )
        if vocab_size is not None and self.vocab_size > vocab_size:
            raise UserError(
                f"{self.spec} has ids up to {self.vocab_size - 1}, and model.vocab_size is only "
                f"{vocab_size}; choose at least {self.vocab_size}"
            )

    def place(self, document: int) -> tuple[int, int]:
        """How many ids a document has, and which record of all is its first."""
        block, number = divmod(document, BLOCK)
        lengths, places = self._block(block)
        return int(lengths[number]), int(places[number])

    def _place_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """That of each document of a block, copied: `lengths` may be a map of a file."""
        lengths = np.array(self.lengths[BLOCK * block : BLOCK * (block + 1)])
        self._placed_blocks += 1
        if self._placed_blocks % HELD == 0:
            give_back(self.lengths)
        records = records_of(lengths)
        return lengths, np.cumsum(records) - records + self._record_sums[block]

    def _choose(self, pattern: str | None, count: int) -> list[int]:
        if pattern is None or Path(pattern).expanduser() == self.directory:
            return list(range(count))
        wanted = os.path.basename(os.path.expanduser(pattern))
        matching = [n for n in range(count) if fnmatch.fnmatch(shard_name(n, count), wanted)]
        if not matching:
            here = sorted(os.path.basename(p) for p in glob.glob(str(self.directory / "tokens-*")))
            raise UserError(
                f"{self.spec!r}: no shard of {self.directory} matches {wanted!r}; it has "
                f"{shard_name(0, count)} to {shard_name(count - 1, count)} ({len(here)} present)"
            )
        return matching


def _check_file(path: Path, shard: dict[str, Any]) -> None:
    if not path.is_file():
        raise UserError(f"{path}: this shard is missing; {AGAIN}")
    if path.stat().st_size != shard["file_bytes"]:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes and was written with "
            f"{shard['file_bytes']:,}: it is damaged; delete it and {AGAIN}"
        )


def map_array(path: Path, columns: int) -> np.ndarray:
    """The array [2, columns] of documents.npy or sums.npy. Raises ValueError: it is not there."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); {AGAIN}") from None
    if array.shape != (2, columns):
        raise UserError(f"{path} is damaged: it has shape {array.shape}; delete it and {AGAIN}")
    return array


def _parts(index: np.ndarray, bounds: list[tuple[int, int]]) -> np.ndarray:
    """Columns of the index, those of each bounds; a view of it where they follow each other."""
    if all(stop == start for (_, stop), (start, _) in pairwise(bounds)):
        return index[:, bounds[0][0] : bounds[-1][1]]
    return np.concatenate([index[:, start:stop] for start, stop in bounds], axis=1)


def records_of(lengths: np.ndarray) -> np.ndarray:
    """How many records each document of so many ids takes: int64."""
    return -(-lengths.astype(np.int64) // RECORD)


def sum_index(lengths: np.ndarray) -> np.ndarray:
    """What sums.npy holds of documents of these lengths."""
    return np.stack([sum_blocks(lengths, pairs_of), sum_blocks(lengths, records_of)])
