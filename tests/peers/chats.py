# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""What transformers makes of chats by templates of the common families: the golden ids of
tests/golden/chats.json.

    python3 -m venv PEERS && PEERS/bin/pip install transformers==5.24.0 jinja2==3.1.6 && \\
        PYTHONPATH=. PEERS/bin/python tests/peers/chats.py [--write]

Expected: `39 chats are as in tests/golden/chats.json`. With --write it is made anew, which a new
template needs. tests/recurrentgemma/text/test_chat_template.py compares ours with it.
"""

import argparse
import json
from pathlib import Path

if __name__ == "__main__":  # before what only its own environment has
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()

import tokenizers
from transformers import PreTrainedTokenizerFast

from tests.recurrentgemma.text.chat_samples import (
    CASES,
    CHATS,
    CONFIG,
    TEMPLATES,
    TOOLS,
    tokenizer_json,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "chats.json"


def main(write: bool) -> None:
    backend = tokenizers.Tokenizer.from_str(tokenizer_json())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **CONFIG)
    entries: dict[str, dict[str, list[int]]] = {}
    for template, chat in CASES:
        options = {"chat_template": TEMPLATES[template], "date_string": "26 Jul 2024"}
        options |= {"tools": TOOLS} if chat == "tools" else {}
        messages = CHATS[chat]
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
        entry = {"prompt": asked["input_ids"]}
        if messages[-1]["role"] == "assistant":
            whole = tokenizer.apply_chat_template(
                messages, return_assistant_tokens_mask="generation" in template, **options
            )
            entry["whole"] = whole["input_ids"]
            if "generation" in template:
                entry["mask"] = whole["assistant_masks"]
            begun = [*messages[:-1], {"role": "assistant", "content": "Par"}]
            continued = tokenizer.apply_chat_template(begun, continue_final_message=True, **options)
            entry["continued"] = continued["input_ids"]
        entries[f"{template}: {chat}"] = entry
    if write:
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
        GOLDEN.write_text("{\n" + lines.replace(", ", ",") + "\n}\n", "utf-8")
    assert json.loads(GOLDEN.read_text("utf-8")) == entries
    print(f"{len(entries)} chats are as in tests/golden/chats.json")


if __name__ == "__main__":
    main(arguments.write)
