# SPDX-License-Identifier: Apache-2.0
"""A small policy over bytes, questions to it, and rollouts of known numbers."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.drawn import untrained
from training.configs import TrainConfig
from training.finetuning.policy import Judge, value_head
from training.finetuning.policy_config import PolicyConfig
from training.finetuning.questions import Question
from training.finetuning.rollout import Rollout, Sampler

TEXTS = ("ab", "cdefg", "h", "ij", "klm", "n")
MOST, ANSWER = 6, 5  # tokens of a prompt with BOS, and of an answer
TOKENIZER = ByteTokenizer()
STOPS = (ord("e"), 257)

LETTERS = '''
import os, pathlib, signal

def reward(prompt, answer, row):
    """The share of letters among what can be written."""
    return sum(c.islower() for c in answer) / max(len(answer), 4)

def killed(prompt, answer, row):
    """The same, but its process dies once, at a call that the row's file counts."""
    path = pathlib.Path(row["calls"])
    calls = int(path.read_text()) + 1
    path.write_text(str(calls))
    if calls == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return reward(prompt, answer, row)
'''


def questions() -> list[Question]:
    return [
        Question(f"file:{n}", text, tuple(TOKENIZER.encode(text)), {"answer": "e"})
        for n, text in enumerate(TEXTS)
    ]


def policy_config(small: TrainConfig, *, batch_size: int = 2, **changes) -> TrainConfig:
    """A rollout of 4 answers."""
    given = {"method": "ppo", "prompts": ("p",), "rollout": 4, "max_new_tokens": ANSWER, "kl": 0.0}
    policy = PolicyConfig(**given | changes)
    return dataclasses.replace(
        small, text=(), policy=policy, init_from="base", batch_size=batch_size
    )


def split_model(small: TrainConfig, seed: int = 0):
    """(graphdef, params)."""
    return nnx.split(untrained(small.model, seed), nnx.Param)


def judge(graphdef) -> Judge:
    return Judge(graphdef, vocab_size=TOKENIZER.vocab_size, answer=ANSWER)


def sampler(graphdef, small: TrainConfig) -> Sampler:
    return Sampler(
        graphdef, small.model, TOKENIZER, most=MOST, max_new_tokens=ANSWER, stop_ids=STOPS
    )


def trained(params, small: TrainConfig, *, value: bool = False):
    return {"policy": params} | ({"value": value_head(small.model.width)} if value else {})


def drawn(log_prob_of=None) -> Rollout:
    """Four answers of 2, 5, 1 and 3 tokens to prompts of 3, 6, 2 and 3."""
    rng = np.random.default_rng(0)
    prompt, answer = np.array([3, 6, 2, 3], np.int32), np.array([2, 5, 1, 3], np.int32)
    tokens = rng.integers(97, 120, (4, MOST + ANSWER)).astype(np.int32)
    tokens *= np.arange(MOST + ANSWER)[None] < (prompt + answer)[:, None]
    rollout = Rollout(
        jnp.asarray(tokens),
        jnp.asarray(prompt),
        jnp.asarray(answer),
        jnp.zeros((4, ANSWER)),
        jnp.array([1.0, 0.0, 0.5, 2.0]),
    )
    if log_prob_of is None:
        return rollout
    return rollout._replace(log_prob_BA=log_prob_of(rollout).log_prob_BA)


def write_prompts(path: Path, **row) -> Path:
    lines = [{"prompt": text, "answer": "e", **row} for text in TEXTS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_reward(folder: Path) -> Path:
    path = folder / "letters.py"
    path.write_text(LETTERS)
    return path
