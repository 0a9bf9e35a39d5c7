# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back: one small protocol, three kinds of tokenizer, told apart by content.

| kind          | module                       | file in a checkpoint or run             |
|---------------|------------------------------|-----------------------------------------|
| SentencePiece | `sentencepiece_tokenizer.py` | `tokenizer.model`                       |
| Hugging Face  | `huggingface_tokenizer.py`   | `tokenizer.json` (+ tokenizer_config)   |
| raw bytes     | `byte_tokenizer.py`          | `byte_tokenizer.json`                   |

In a directory with several, the one that fits the model's embedding counts (`find_tokenizer`); what
lies beside it (`tokenizer_files.py`) travels with it.

A literal control token in a text (`<start_of_turn>` and the like) is encoded as that token, as
Gemma does it; `chat.encode_chat` shields the messages of a chat from this.
"""

import codecs
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from recurrentgemma.errors import UserError
from recurrentgemma.text import byte_tokenizer, huggingface_tokenizer, sentencepiece_tokenizer
from recurrentgemma.text.byte_tokenizer import ByteTokenizer as ByteTokenizer
from recurrentgemma.text.chat import add_ends
from recurrentgemma.text.chat import encode_chat as encode_chat
from recurrentgemma.text.chat import format_chat as format_chat
from recurrentgemma.text.huggingface_tokenizer import HuggingFaceTokenizer as HuggingFaceTokenizer
from recurrentgemma.text.sentencepiece_tokenizer import (
    SentencePieceTokenizer as SentencePieceTokenizer,
)
from recurrentgemma.text.sentencepiece_tokenizer import train_sentencepiece as train_sentencepiece
from recurrentgemma.text.streaming import StopScanner as StopScanner
from recurrentgemma.text.streaming import StreamDecoder as StreamDecoder
from recurrentgemma.text.tokenizer_files import (
    BESIDE,
    GENERATION,
    SPECIAL,
    generation_stops,
    read_beside,
    read_generation,
)


class Tokenizer(Protocol):
    """What the rest of the project asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int | None: ...

    @property
    def pad_id(self) -> int | None: ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a generation: eos and `<end_of_turn>`, where there are such; those of a
        generation_config.json in the directory that it came from, and what ends an answer in the
        chat template there."""
        ...

    @property
    def beside(self) -> Mapping[str, bytes]:
        """Name -> content of the files that lay beside it in its directory."""
        ...

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Literal -> id of the control tokens that `encode` finds in a text."""
        ...

    @property
    def other_tokens(self) -> Mapping[str, int]:
        """Literal -> id of what else `encode` finds whole in a text, such as <think>."""
        ...

    @property
    def roles(self) -> Mapping[str, str]:
        """What transformers calls the special tokens, such as bos_token -> their literals."""
        ...

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """The ids of `text`, after bos if there is one and `bos` is true."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`. pad, bos and eos have no text; bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id outside of the vocabulary.
        """
        ...

    def settled(self, ids: Sequence[int]) -> bool:
        """Whether more ids can only add to `decode(ids)`, but for up to three U+FFFD at its end."""
        ...

    def token_bytes(self) -> list[bytes | None]:
        """What each token adds to a text, in bytes; None for control tokens and the like."""
        ...

    @property
    def joins_words(self) -> bool:
        """Whether a token may hold the end of a word and the space after it (pieces.py)."""
        ...

    def save(self, directory: str | Path) -> None:
        """Write the file from which `load_tokenizer(directory)` gives this tokenizer, without what
        lay beside it (`save_tokenizer`)."""
        ...


_Kind = ByteTokenizer | HuggingFaceTokenizer | SentencePieceTokenizer
FILES = (sentencepiece_tokenizer.FILE, byte_tokenizer.FILE, huggingface_tokenizer.FILE)
_SAMPLE = (  # texts that tokenizers of the same model encode alike
    "To be, or not to be:\n\n  that is the question. 1601, 3.14 + 2",
    " été  façade ß; 東京 の 日本語\t🎉\r\n",
    "def f(x):\n    return {'a': [x, 0]}  # <b>",
)


def find_tokenizer(directory: str | Path, vocab_size: int | None = None) -> Tokenizer | None:
    """The tokenizer that lies in `directory`, or None.

    vocab_size: the rows of the model's embedding. Of several tokenizers the one with the most ids
    that fits it is taken, if the others that fit encode text alike; `<mask>` and the like, which
    transformers adds beyond the embedding, are left out. The caller checks that what is taken fits
    (`check_vocabulary`). Raises ValueError where they encode text in different ways, or a file is
    broken.
    """
    directory = Path(directory)
    tokenizers = {name: _read(directory / name) for name in FILES if (directory / name).is_file()}
    if not tokenizers:
        return None
    fitting = _fitting(tokenizers, 2**31 if vocab_size is None else vocab_size)
    chosen = max(fitting, key=lambda name: fitting[name].vocab_size)  # of equals, the first
    tokenizer = fitting[chosen]
    for name, other in fitting.items():
        if other is not tokenizer and not _alike(tokenizer, other):
            raise UserError(
                f"{directory}: {chosen} and {name} encode the same text in different ways; remove "
                f"the one that the model was not trained with"
            )
    beside = read_beside(directory, (*fitting, *BESIDE)) | read_generation(directory)
    if tokenizer is not tokenizers[chosen]:
        beside.pop(SPECIAL, None)  # names the tokens that were left out
    tokenizer.beside = beside
    tokenizer.stop_ids = tuple(dict.fromkeys((*tokenizer.stop_ids, *generation_stops(directory))))
    add_ends(tokenizer)
    return tokenizer


def add_stops_of(tokenizer: Tokenizer, directory: Path) -> None:
    """Take the stops that a directory states for transformers, where the tokenizer came without."""
    if GENERATION not in tokenizer.beside and isinstance(tokenizer, _Kind):
        stops = (*tokenizer.stop_ids, *generation_stops(directory))
        tokenizer.stop_ids = tuple(dict.fromkeys(stops))
        tokenizer.beside = {**tokenizer.beside, **read_generation(directory)}


def _fitting(tokenizers: Mapping[str, _Kind], most: int) -> dict[str, _Kind]:
    """Those with at most so many ids; if there are none, the first."""
    fitting = {}
    for name, tokenizer in tokenizers.items():
        if tokenizer.vocab_size > most and isinstance(tokenizer, HuggingFaceTokenizer):
            tokenizer = tokenizer.without_unused(most)
        if tokenizer.vocab_size <= most:
            fitting[name] = tokenizer
    return fitting or dict(list(tokenizers.items())[:1])


def load_tokenizer(path: str | Path, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer in a file of any name and of any of the three kinds, or in a directory, of
    which vocab_size chooses one (`find_tokenizer`).

    Raises ValueError when there is none, or when the file is not a tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        tokenizer = find_tokenizer(path, vocab_size)
        if tokenizer is None:
            raise UserError(f"{path} holds no tokenizer: expected one of {', '.join(FILES)}")
        return tokenizer
    if not path.is_file():
        raise UserError(f"there is no tokenizer file {path}")
    return _read(path)


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write a tokenizer and what lay beside it, as `find_tokenizer(directory)` finds them."""
    tokenizer.save(directory)
    for name, content in tokenizer.beside.items():
        if not (Path(directory) / name).exists():
            (Path(directory) / name).write_bytes(content)


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Tells tokenizers apart that could give a text other ids: of the files that it saves.

    Of tokenizer_config.json only the ids of its roles count; the rest changes no id.
    """
    roles = (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    digest = hashlib.sha256(repr(roles).encode())
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save(scratch)
        for file in sorted(Path(scratch).iterdir()):
            if file.name != "tokenizer_config.json":
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> _Kind:
    with path.open("rb") as file:
        start = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.startswith(b"{"):
        return SentencePieceTokenizer.from_file(path)
    if ByteTokenizer.wrote(path):
        return ByteTokenizer()
    return HuggingFaceTokenizer.from_file(path)


def _alike(one: Tokenizer, other: Tokenizer) -> bool:
    return one.bos_id == other.bos_id and all(
        one.encode(text, bos=False) == other.encode(text, bos=False) for text in _SAMPLE
    )


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Check that a model with `vocab_size` embeddings knows every id of `tokenizer`.

    A larger model is fine (embeddings are often padded to a round number): generation never emits
    the ids beyond the tokenizer's. Raises ValueError otherwise.
    """
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model's vocabulary only "
            f"{vocab_size}: this is not the tokenizer that the model was trained with"
        )
