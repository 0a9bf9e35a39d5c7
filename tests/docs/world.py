# SPDX-License-Identifier: Apache-2.0
"""The folder that the documentation's code is run in: small files by the names that it uses."""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flax import nnx

import griffin_lm
import recurrentgemma as rg
from checkpoints import store
from checkpoints.convert import convert
from recurrentgemma.config import GriffinConfig
from recurrentgemma.losses import Batch
from recurrentgemma.params import flat_params
from recurrentgemma.presets import tiny
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.sentencepiece_tokenizer import train_sentencepiece
from tests.drawn import untrained
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step

CONFIG = dataclasses.replace(
    tiny(),
    vocab_size=1024,
    width=32,
    mlp_width=48,
    lru_width=32,
    num_layers=3,
    num_gate_blocks=2,
    num_heads=2,
    head_dim=16,
    attention_window=16,
    scale_embeddings=True,
    logits_soft_cap=30.0,
)
PLAY = "ROMEO:\nBut soft! What light through yonder window breaks?\n\n"


def write_model(folder: Path, config: GriffinConfig = CONFIG) -> None:
    """Random parameters and a tokenizer of bytes, in our format."""
    model = untrained(config)
    store.write(folder, dict(flat_params(model)), config)
    ByteTokenizer().save(folder)


def make_world(folder: Path) -> None:
    """Models, texts and chats of the names that the documentation uses."""
    write_model(folder / "runs" / "demo")
    for name in ("recurrentgemma-2b-it", "google/recurrentgemma-2b-it"):
        convert(folder / "runs" / "demo", folder / name, "huggingface")
    (folder / "books").mkdir()
    (folder / "held_out").mkdir()
    for where in ("books/one.txt", "books/two.txt", "held_out/three.txt", "book.txt"):
        (folder / where).write_text(PLAY * 40)
    chats = [{"prompt": f"What is {n} and {n}?", "response": str(2 * n)} for n in range(24)]
    lines = "".join(json.dumps(chat) + "\n" for chat in chats)
    for name in ("tune.jsonl", "chats.jsonl"):
        (folder / name).write_text(lines)
    texts = [{"text": PLAY * 3} for _ in range(8)]
    (folder / "web").mkdir()
    (folder / "web" / "one.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    pq.write_table(pa.Table.from_pylist(texts), folder / "web" / "one.parquet")
    with contextlib.chdir(folder):
        sources = ["jsonl:web/*.jsonl", "--tokenizer", "bytes", "--out", "tokens/web"]
        assert griffin_lm.main(["data", "tokenize", *sources]) == 0
    train_sentencepiece([PLAY], 300).save(folder)


def given(page: str) -> dict:
    """What a page's Python takes for granted."""
    names: dict = {"__name__": "__docs__", "rg": rg, "Path": Path, "nnx": nnx}
    if page == "data":
        names |= {"tokenizer": ByteTokenizer(), "model": CONFIG}
    if page == "chats":
        question = {"role": "user", "content": "Hi"}
        answer = {"role": "assistant", "content": "Hello."}
        names |= {"lm": rg.load("runs/demo"), "messages": [question, answer]}
    if page == "finetuning":
        model = untrained(CONFIG)
        tokens_BT, weights_BT = jnp.ones((2, 8), jnp.int32), jnp.ones((2, 8))
        positions_BT = jnp.tile(jnp.arange(8), (2, 1))
        names |= {
            "model": model,
            "mesh": None,
            "batch": Batch(tokens_BT, tokens_BT, weights_BT, positions_BT),
            "tx": make_optimizer(OptimConfig(warmup_steps=1), steps=4),
            "make_train_step": make_train_step,
            "init_train_state": init_train_state,
        }
    if page == "evaluation":
        names["np"] = np
    if page == "training":
        names |= {"config": CONFIG, "tokens_BT": np.ones((2, 8), np.int32), "state": None}
    return names
