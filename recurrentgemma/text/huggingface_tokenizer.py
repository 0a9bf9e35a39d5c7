# SPDX-License-Identifier: Apache-2.0
"""Hugging Face `tokenizer.json` files, read with the `tokenizers` library."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_encoding import END_OF_TURN, START_OF_TURN
from recurrentgemma.text.pieces import joins_words
from recurrentgemma.text.tokenizer_files import ROLES, read_json, read_text

FILE = "tokenizer.json"
# tokenizer.json does not say which token begins or ends a text. Without a tokenizer_config.json
# beside it that does, the names that the common families use are looked for.
_NAMES = {
    "bos_token": ("<bos>", "<s>", "<|begin_of_text|>"),
    "eos_token": ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
}
# Roles that a causal language model does not use. transformers' GemmaTokenizer adds a <mask>, an id
# beyond the embedding, to every tokenizer that it saves.
_UNUSED = ("mask_token", "sep_token", "cls_token")
# Decoders whose text only grows at its end when tokens are added, whatever stands before them.
_GROWING = {"ByteLevel", "ByteFallback", "Metaspace", "WordPiece", "BPEDecoder", "Fuse", "Strip"}


class HuggingFaceTokenizer:
    """See `recurrentgemma.text.tokenizer.Tokenizer`.

    content: the text of a tokenizer.json; its own template for bos is not used, `encode` adds bos.
    config: the content of tokenizer_config.json, of which bos_token, eos_token and pad_token count.
    Raises ValueError when `content` is not a tokenizer, or has not the tokens that `config` names.
    """

    def __init__(self, content: str, config: Mapping[str, Any] | None = None, *, name="tokenizer"):
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises this very class
            raise UserError(f"{name} is not the JSON of a tokenizer: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.content = content
        self.config = dict(config or {})
        self.beside: Mapping[str, bytes] = {}
        if self.config:
            self.beside = {ROLES: json.dumps(self.config, ensure_ascii=False).encode()}
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values()) + 1
        self.bos_id = _role(ids, self.config, "bos_token", name)
        self.eos_id = _role(ids, self.config, "eos_token", name)
        self.pad_id = _role(ids, self.config, "pad_token", name)
        turns = {turn: ids[turn] for turn in (START_OF_TURN, END_OF_TURN) if turn in ids}
        added = self._tokenizer.get_added_tokens_decoder().items()
        self.control_tokens = {t.content: i for i, t in added if t.special} | turns
        self.other_tokens: Mapping[str, int] = {
            t.content: i for i, t in added if t.content not in self.control_tokens
        }
        named = {role: _content(token) for role, token in self.config.items()}
        self.roles: dict[str, str] = {
            role: text
            for role, text in named.items()
            if role.endswith("_token") and isinstance(text, str) and text in ids
        }
        self.roles |= {
            role: text
            for role, i in zip(_NAMES, (self.bos_id, self.eos_id, self.pad_id), strict=True)
            if i is not None and (text := self._tokenizer.id_to_token(i)) is not None
        }
        stop = dict.fromkeys((self.eos_id, turns.get(END_OF_TURN)))
        self.stop_ids = tuple(i for i in stop if i is not None)
        self._silent = {self.bos_id, self.eos_id, self.pad_id}
        parsed = json.loads(content)
        unknown = _unknown(parsed["model"])
        if unknown in ids:
            self.roles = {"unk_token": unknown} | self.roles
        decoder = parsed.get("decoder")
        steps = decoder.get("decoders", [decoder]) if decoder else []
        self._decoders = {step["type"] for step in steps}
        self._grows = all(map(_grows, steps))
        self._fallback: set[int] = set()
        if any(step["type"] == "ByteFallback" for step in steps):
            self._fallback = {i for t, i in ids.items() if re.fullmatch("<0x[0-9A-F]{2}>", t)}

    @classmethod
    def from_file(cls, path: str | Path) -> "HuggingFaceTokenizer":
        path = Path(path)
        roles = path.parent / ROLES
        config = read_json(roles) if roles.is_file() else None
        return cls(read_text(path), config, name=str(path))

    def without_unused(self, vocab_size: int) -> "HuggingFaceTokenizer":
        """Without the tokens from id vocab_size on, if all of them only fill roles that a causal
        language model does not use; else itself."""
        content = json.loads(self.content)
        added = content.get("added_tokens", [])
        surplus = {t["content"] for t in added if t["id"] >= vocab_size}
        roles = {name: _content(self.config.get(name)) for name in _UNUSED}
        unused = {name: text for name, text in roles.items() if isinstance(text, str)}
        if not surplus or not surplus <= set(unused.values()):
            return self
        content["added_tokens"] = [t for t in added if t["id"] < vocab_size]
        config = {n: v for n, v in self.config.items() if unused.get(n) not in surplus}
        return HuggingFaceTokenizer(json.dumps(content, ensure_ascii=False), config)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        # `encode` would hold the interpreter's lock, and with it every thread that tokenises.
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids = encoding.ids
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        ids = [int(i) for i in ids]
        outside = [i for i in ids if not 0 <= i < self.vocab_size]
        if outside:
            raise UserError(
                f"tokens {outside} are outside of the vocabulary, 0 to {self.vocab_size - 1}"
            )
        loud = [i for i in ids if i not in self._silent]
        return self._tokenizer.decode(loud, skip_special_tokens=False)

    def settled(self, ids: Sequence[int]) -> bool:
        if not self._grows:
            return False
        # One byte that is not UTF-8 turns all of the byte tokens that it follows into U+FFFD.
        last = next((i for i in reversed(ids) if i not in self._silent), None)
        return last not in self._fallback

    @property
    def joins_words(self) -> bool:
        return self._joins_words

    @functools.cached_property
    def _joins_words(self) -> bool:
        return joins_words(list(self._tokenizer.get_vocab(with_added_tokens=True)))

    def token_bytes(self) -> list[bytes | None]:
        """Raises UserError: its decoder is neither of bytes nor of SentencePiece's kind."""
        if not self._decoders & {"ByteLevel", "Metaspace", "ByteFallback", "Replace"}:
            raise UserError(
                f"what a token adds to a text cannot be told with the decoder of this tokenizer, "
                f"{', '.join(sorted(self._decoders)) or 'none'}: expected ByteLevel, Metaspace or "
                "ByteFallback"
            )
        of_character = _byte_level() if "ByteLevel" in self._decoders else None
        texts: list[bytes | None] = [None] * self.vocab_size
        special = {*self.control_tokens.values(), self.bos_id, self.eos_id, self.pad_id}
        for piece, token in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token in special or piece in self.roles.values():
                continue
            if token in self._fallback:
                texts[token] = bytes([int(piece[3:5], 16)])
            elif piece in self.other_tokens:
                texts[token] = piece.encode()
            elif of_character is not None:
                texts[token] = bytes(of_character[character] for character in piece)
            else:
                texts[token] = piece.replace("\u2581", " ").encode()
        return texts

    def save(self, directory: str | Path) -> None:
        directory = Path(directory)
        (directory / FILE).write_text(self.content, encoding="utf-8")
        names = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        roles = {k: None if i is None else self._tokenizer.id_to_token(i) for k, i in names.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | self.config | roles
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (directory / ROLES).write_text(text, encoding="utf-8")


def _byte_level() -> dict[str, int]:
    """The byte that each character stands for in GPT-2's vocabularies: printable ones for
    themselves, the others from U+0100 on, in their order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    of_character = {chr(byte): byte for byte in printable}
    return of_character | {chr(256 + number): byte for number, byte in enumerate(others)}


def _unknown(model: Mapping[str, Any]) -> str | None:
    """What the model makes of characters that it does not know."""
    number = model.get("unk_id")
    return model.get("unk_token") if number is None else model["vocab"][number][0]


def _role(ids: dict[str, int], config: Mapping[str, Any], role: str, name: str) -> int | None:
    if role not in config:
        return next((ids[token] for token in _NAMES[role] if token in ids), None)
    token = _content(config[role])
    if token is not None and not (isinstance(token, str) and token in ids):
        raise UserError(f"{ROLES} beside {name} names {role} {token!r}: no such token")
    return None if token is None else ids[token]


def _content(token: Any) -> Any:
    """A token in a tokenizer_config.json is its text, or an object that holds it."""
    return token.get("content") if isinstance(token, Mapping) else token


def _grows(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Strip":
        return step["stop"] == 0
    if step["type"] == "Replace":  # of one character, so it cannot span two tokens
        return len(step["pattern"].get("String", "")) == 1
    return step["type"] in _GROWING
