# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""Is a model that we export the same in transformers: its ids, its chat, where its answers end?

It needs PyTorch, so this runs in an environment of its own (two minutes after the installation):

    python3 -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers==5.24.0 jinja2 . && \\
        PYTHONPATH=. JAX_PLATFORMS=cpu PEERS/bin/python tests/peers/exports.py

Expected: one line a base, all of it equal. A base is a random model of three layers with one kind
of tokenizer and what may lie beside it. It goes into our format, as a run keeps it, and from there
to Hugging Face's. Compared: the ids of 300 texts, a chat of three turns, the greedy answer to that
chat (which ends at an id that the base's generation_config.json names), and what transformers saves
again, read here.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # before what only its own environment has
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaTokenizer

import recurrentgemma as rg
from checkpoints import huggingface
from checkpoints.convert import convert
from recurrentgemma.text.chat import encode_chat
from recurrentgemma.text.tokenizer import save_tokenizer
from tests.checkpoints.conftest import random_params, small_config
from tests.checkpoints.test_transformers_tokenizer import llamas
from tests.recurrentgemma.conftest import KINDS

CHAT = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "  To be, or\n\nnot to be?"},
    {"role": "assistant", "content": "That is the question: été 東京 🎉 "},
    {"role": "user", "content": "Whether 'tis nobler 1601?"},
]
PIECES = ["<start_of_turn>", "<end_of_turn>", "the ", "  ", *"abcdefgh \n\t.,'01éß東京🎉\0"]
NEW = 12  # tokens of an answer, and the base's generation_config.json ends it after STOP
STOP = 5


def main() -> int:
    unequal = 0
    for name, make in (KINDS | {"llamas": llamas}).items():
        with tempfile.TemporaryDirectory() as scratch:
            results = compare(Path(scratch), make(), is_gemmas=name == "byte_fallback")
        unequal += list(results.values()).count(False)
        print(
            f"{name:26}", ", ".join(f"{k} {'equal' if v else 'DIFFER'}" for k, v in results.items())
        )
    return int(unequal > 0)


def compare(scratch: Path, tokenizer, *, is_gemmas: bool) -> dict[str, bool]:
    config = small_config(vocab_size=tokenizer.vocab_size, attention_window=256)
    params = random_params(config)
    params = {n: a * 0.3 if n.endswith(("weight", "w")) else a for n, a in params.items()}
    base, ours, out = scratch / "base", scratch / "ours", scratch / "out"
    huggingface.write(base, params, config)
    save_tokenizer(tokenizer, base)
    chats = {"<start_of_turn>", "<end_of_turn>"} <= tokenizer.control_tokens.keys()
    prompt = encode_chat(tokenizer, CHAT) if chats else tokenizer.encode(CHAT[1]["content"])
    (base / "generation_config.json").unlink()
    [free] = rg.load(base).complete([prompt], max_tokens=NEW)
    stop = free.tokens[min(STOP, len(free.tokens) - 1)]
    generation = {"eos_token_id": [tokenizer.eos_id, stop], "temperature": 0.5}
    (base / "generation_config.json").write_text(json.dumps(generation))
    convert(base, ours, "griffin")
    convert(ours, out, "huggingface")

    lm = rg.load(ours)
    assert lm.tokenizer is not None
    theirs = AutoTokenizer.from_pretrained(out)
    draw = random.Random(0)
    texts = ["".join(draw.choices(PIECES, k=draw.randrange(30))) for _ in range(300)]
    results = {"ids": all(theirs(text)["input_ids"] == lm.tokenizer.encode(text) for text in texts)}
    if chats:
        got = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
        results["chat"] = got == prompt
    model = AutoModelForCausalLM.from_pretrained(out)
    model.generation_config.temperature = None  # of no use to a greedy answer
    stops = model.generation_config.eos_token_id
    results["stops"] = set(stops) == set(lm.tokenizer.stop_ids) and stop in stops
    with torch.no_grad():
        answer = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW)[0]
    [here] = lm.complete([prompt], max_tokens=NEW)
    tokens = answer[len(prompt) :].tolist()
    results[f"answer of {len(tokens)} tokens"] = ends(tokens, stops) == ends(here.tokens, stops)

    again = scratch / "again"
    model.generation_config.temperature = None
    model.save_pretrained(again)
    theirs.save_pretrained(again)
    results["saved again"] = same(rg.load(again), lm, texts)
    if is_gemmas:  # transformers' own class adds a <mask>, one id beyond the embedding
        GemmaTokenizer.from_pretrained(out).save_pretrained(again)
        assert len(AutoTokenizer.from_pretrained(again)) == tokenizer.vocab_size + 1
        results["saved as GemmaTokenizer"] = same(rg.load(again), lm, texts)
    return results


def ends(tokens: list[int], stops: list[int]) -> list[int]:
    """An answer without the token that ended it, which we do not report."""
    return tokens[:-1] if tokens and tokens[-1] in stops else tokens


def same(one, other, texts: list[str]) -> bool:
    equal = all(one.tokenizer.encode(t) == other.tokenizer.encode(t) for t in texts)
    ids = np.array([one.tokenizer.encode(texts[1])])
    return equal and np.allclose(one.logits(ids), other.logits(ids), atol=1e-6)


if __name__ == "__main__":
    sys.exit(main())
