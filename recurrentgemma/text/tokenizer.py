# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back: one small protocol, three kinds of tokenizer, told apart by content.

| kind          | module                       | file in a checkpoint or run             |
|---------------|------------------------------|-----------------------------------------|
| SentencePiece | `sentencepiece_tokenizer.py` | `tokenizer.model`                       |
| Hugging Face  | `huggingface_tokenizer.py`   | `tokenizer.json` (+ tokenizer_config)   |
| raw bytes     | `byte_tokenizer.py`          | `byte_tokenizer.json`                   |

A literal control token in a text (`<start_of_turn>` and the like) is encoded as that token, as
Gemma does it; `chat.encode_chat` shields the messages of a chat from this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer as ByteTokenizer
from recurrentgemma.text.chat import encode_chat as encode_chat
from recurrentgemma.text.chat import format_chat as format_chat
from recurrentgemma.text.huggingface_tokenizer import HuggingFaceTokenizer as HuggingFaceTokenizer
from recurrentgemma.text.sentencepiece_tokenizer import (
    SentencePieceTokenizer as SentencePieceTokenizer,
)
from recurrentgemma.text.sentencepiece_tokenizer import train_sentencepiece as train_sentencepiece
from recurrentgemma.text.streaming import StopScanner as StopScanner
from recurrentgemma.text.streaming import StreamDecoder as StreamDecoder


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
        """The ids that end a generation: eos and `<end_of_turn>`, where there are such."""
        ...

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Literal -> id of the control tokens that `encode` finds in a text."""
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

    def save(self, directory: str | Path) -> None:
        """Write the file from which `load_tokenizer(directory)` gives this tokenizer."""
        ...


_FILES = {
    "tokenizer.model": SentencePieceTokenizer,
    "tokenizer.json": HuggingFaceTokenizer,
    "byte_tokenizer.json": ByteTokenizer,
}


def find_tokenizer(directory: str | Path) -> Tokenizer | None:
    """The tokenizer that lies in `directory`, or None. Of several, the first in the table above."""
    for name in _FILES:
        if (file := Path(directory) / name).is_file():
            return load_tokenizer(file)
    return None


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a file of any name and of any of the three kinds, or in a directory.

    Raises ValueError when there is none, or when the file is not a tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        found = find_tokenizer(path)
        if found is None:
            raise UserError(f"{path} holds no tokenizer: expected one of {', '.join(_FILES)}")
        return found
    if not path.is_file():
        raise UserError(f"there is no tokenizer file {path}")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start.startswith(b"{"):
        return SentencePieceTokenizer.from_file(path)
    if ByteTokenizer.wrote(path):
        return ByteTokenizer()
    return HuggingFaceTokenizer.from_file(path)


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
