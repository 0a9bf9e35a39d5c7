# SPDX-License-Identifier: Apache-2.0
"""Chat templates of the common families, a tokenizer that has all of their control tokens, and
chats to be written by them.

tests/peers/chats.py has transformers write them, and the test compares; so only `tokenizers` is
imported here.
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

HERE = Path(__file__).parent / "templates"
TEMPLATES = {path.stem: path.read_text("utf-8") for path in sorted(HERE.glob("*.jinja"))}
SPECIAL = ["<pad>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>", "<|im_start|>"]
SPECIAL += ["<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
PLAIN = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # added tokens, and not special
MERGES = ["Ċ Ċ", "Ġ P", "a r", "i s", "P ar", "Par is", "ĠP ar", "ĠPar is", "e r", "u s", "us er"]
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SYSTEM = {"role": "system", "content": "Be brief.\n"}
TURNS = [
    {"role": "user", "content": "  Capital of France? "},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": "And of Italy?\n\nThink."},
    {"role": "assistant", "content": "<think>Hm. Paris?</think>\n\nRome \n"},
    {"role": "user", "content": "Grüße, 東京 <b>"},
]
CALL = {"name": "weather", "arguments": {"city": "Paris"}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"é": [1, None]}}}]
CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": TURNS[:1],
    "three turns": TURNS[:3],
    "answered": TURNS[:4],
    "five turns": TURNS,
    "a system message": [SYSTEM, *TURNS[:3]],
    "tools": [
        *TURNS[:1],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": CALL}],
        },
        {"role": "tool", "content": "cloudy, 3°", "tool_call_id": "1"},
        {"role": "assistant", "content": "It is cloudy."},
        *TURNS[2:3],
    ],
}
WITHOUT = {  # chats that a template refuses, or does not write
    ("gemma", "a system message"),
    *((name, "tools") for name in TEMPLATES if name != "tools"),
    *(("plain", name) for name in ("a system message",)),
}
CASES = [(t, c) for t in TEMPLATES for c in CHATS if (t, c) not in WITHOUT]


def tokenizer_json() -> str:
    """Byte-level BPE with a few merges, some of them over newlines and spaces."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, special=False) for text in PLAIN])
    return backend.to_str()
