# SPDX-License-Identifier: Apache-2.0
"""SentencePiece `.model` files: Gemma's tokenizer, and those that we train."""

import functools
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_encoding import END_OF_TURN, START_OF_TURN
from recurrentgemma.text.pieces import joins_words

FILE = "tokenizer.model"
# The trainer leaves out a sentence of more than 4,192 bytes; a character has up to four.
_SENTENCE = re.compile(".{1,1000}", re.DOTALL)
# It also leaves out a sentence that holds one of the characters it keeps for itself.
_RESERVED = re.compile("[\0\t\u2047\u2581\u2585]+")


class SentencePieceTokenizer:
    """See `recurrentgemma.text.tokenizer.Tokenizer`. U+2581 is SentencePiece's space and decodes as
    one.

    Raises ValueError when `model` is not a serialised SentencePiece model.
    """

    def __init__(self, model: bytes, *, name: str = "the given bytes"):
        self.model = model
        self.beside: Mapping[str, bytes] = {}
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise UserError(
                f"{name} is neither a SentencePiece model nor the JSON of a tokenizer"
            ) from None
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id = _id_or_none(self._processor.bos_id())
        self.eos_id = _id_or_none(self._processor.eos_id())
        self.pad_id = _id_or_none(self._processor.pad_id())
        turns = {turn: self._processor.piece_to_id(turn) for turn in (START_OF_TURN, END_OF_TURN)}
        self.control_tokens = {t: i for t, i in turns.items() if i != self._processor.unk_id()}
        self.other_tokens: Mapping[str, int] = {}
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        self.roles: Mapping[str, str] = {
            role: self._processor.id_to_piece(i) for role, i in ids.items() if i is not None
        }
        stop = (self.eos_id, self.control_tokens.get(END_OF_TURN))
        self.stop_ids = tuple(i for i in stop if i is not None)

    @classmethod
    def from_file(cls, path: str | Path) -> "SentencePieceTokenizer":
        return cls(Path(path).read_bytes(), name=str(path))

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        ids = self._processor.encode(text)
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        try:
            return self._processor.decode([int(i) for i in ids])
        except IndexError:
            outside = [int(i) for i in ids if not 0 <= i < self.vocab_size]
            raise UserError(
                f"tokens {outside} are outside of the vocabulary, 0 to {self.vocab_size - 1}"
            ) from None

    def settled(self, ids: Sequence[int]) -> bool:
        return True  # each byte of a byte piece that is not UTF-8 is one U+FFFD of its own

    @property
    def joins_words(self) -> bool:
        return self._joins_words

    @functools.cached_property
    def _joins_words(self) -> bool:
        return joins_words(self._processor.id_to_piece(list(range(self.vocab_size))))

    def token_bytes(self) -> list[bytes | None]:
        processor = self._processor
        silent = (processor.is_control, processor.is_unknown, processor.is_unused)
        texts: list[bytes | None] = []
        for token, piece in enumerate(processor.id_to_piece(list(range(self.vocab_size)))):
            if processor.is_byte(token):
                texts.append(bytes([int(piece[3:5], 16)]))
            elif piece in self.control_tokens or any(kind(token) for kind in silent):
                texts.append(None)
            else:
                texts.append(piece.replace("\u2581", " ").encode())
        return texts

    def save(self, directory: str | Path) -> None:
        (Path(directory) / FILE).write_bytes(self.model)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, *, character_coverage: float = 0.9995
) -> SentencePieceTokenizer:
    """A byte-pair tokenizer after Gemma's conventions, trained on `texts`, however long each is.

    No text is lost: characters outside of the vocabulary become bytes, spaces and newlines are
    kept, digits are single; pad, eos, bos, unk are 0, 1, 2, 3 and the turn tokens 4 and 5. The
    same texts give the same tokenizer. A small text may have too few pairs for `vocab_size`; the
    tokenizer is then smaller: build the model from `tokenizer.vocab_size`.

    character_coverage: the share of the text's characters that get a piece of their own.
    Raises ValueError for texts without a character, and for a vocabulary too small to hold 256
    bytes, the control tokens and the characters covered.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=[START_OF_TURN, END_OF_TURN],
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            eos_piece="<eos>",
            bos_piece="<bos>",
            num_threads=1,
            minloglevel=2,  # errors only
        )
    except RuntimeError as error:
        reason = str(error).rsplit("] ", 1)[-1]
        raise UserError(
            f"no SentencePiece tokenizer of {vocab_size} pieces from this text: "
            f"{reason or 'there is hardly any'}"
        ) from None
    return SentencePieceTokenizer(model.getvalue())


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces that the trainer accepts."""
    for text in texts:
        for part in _RESERVED.split(text):
            yield from _SENTENCE.findall(part)


def _id_or_none(token: int) -> int | None:
    return None if token < 0 else token
