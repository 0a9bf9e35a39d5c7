# SPDX-License-Identifier: Apache-2.0
"""Raw UTF-8 bytes as tokens 0 to 255, and five control tokens after them: nothing to train."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_encoding import END_OF_TURN, START_OF_TURN

FILE = "byte_tokenizer.json"
_CONTENT = {"tokenizer": "bytes", "pad": 256, "eos": 257, "bos": 258, "turn": [259, 260]}
_BYTES = {i: bytes([i]) for i in range(256)} | dict.fromkeys((256, 257, 258), b"")
_BYTES |= {259: START_OF_TURN.encode(), 260: END_OF_TURN.encode()}


class ByteTokenizer:
    """See `recurrentgemma.text.tokenizer.Tokenizer`."""

    vocab_size = 261
    pad_id = 256
    eos_id = 257
    bos_id = 258
    stop_ids: tuple[int, ...] = (257, 260)
    joins_words = False
    beside: Mapping[str, bytes] = MappingProxyType({})
    control_tokens: Mapping[str, int] = MappingProxyType({START_OF_TURN: 259, END_OF_TURN: 260})
    other_tokens: Mapping[str, int] = MappingProxyType({})
    roles: Mapping[str, str] = MappingProxyType(
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    )

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        ids = [self.bos_id] if bos else []
        for part in re.split(f"({START_OF_TURN}|{END_OF_TURN})", text):
            control = self.control_tokens.get(part)
            ids += part.encode() if control is None else [control]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        try:
            joined = b"".join([_BYTES[int(i)] for i in ids])
        except KeyError as error:
            [token] = error.args
            raise UserError(
                f"token {token} is outside of the vocabulary, 0 to {self.vocab_size - 1}"
            ) from None
        return joined.decode(errors="replace")

    def settled(self, ids: Sequence[int]) -> bool:
        return True

    def token_bytes(self) -> list[bytes | None]:
        return [bytes([i]) if i < 256 else None for i in range(self.vocab_size)]

    def save(self, directory: str | Path) -> None:
        (Path(directory) / FILE).write_text(json.dumps(_CONTENT) + "\n", encoding="utf-8")

    @staticmethod
    def wrote(path: Path) -> bool:
        """Whether `save` wrote this JSON file. Raises ValueError if it is of another version."""
        try:
            content = json.loads(path.read_bytes()) if path.stat().st_size < 999 else {}
        except ValueError:
            return False
        if content.get("tokenizer") != "bytes":
            return False
        if content != _CONTENT:
            raise UserError(f"{path} holds {content}: expected {_CONTENT}")
        return True
