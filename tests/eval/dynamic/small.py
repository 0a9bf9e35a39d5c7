# SPDX-License-Identifier: Apache-2.0
"""A language model of bytes, small enough to adapt in tests, and texts."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from checkpoints import hyper_adapters
from eval.documents import InMemory
from eval.dynamic import segments
from eval.dynamic.config import DynamicConfig, OptimizerConfig, ReplayConfig
from eval.dynamic.learner import Learner
from eval.dynamic.replay import make_replay
from eval.dynamic.statistics import Statistics, gradient_statistics
from recurrentgemma.config import GriffinConfig
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.hyper_adapters import HyperConfig, fresh_codes, fresh_templates
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.drawn import untrained
from training.data.document import Document
from training.data.held_out import HeldOut

CONFIG = GriffinConfig(
    vocab_size=261,
    width=16,
    mlp_width=24,
    num_layers=2,
    pattern=("recurrent", "local_attention"),
    lru_width=16,
    num_gate_blocks=2,
    num_heads=2,
    head_dim=8,
    attention_window=8,
)
MQA = dataclasses.replace(CONFIG, pattern=("global_attention",), num_layers=1, context_length=32)
SGD = OptimizerConfig(algorithm="sgd", learning_rate=0.3)
PLAIN = DynamicConfig(segment_length=8, optimizer=SGD)
"""What most tests adapt with: all parameters, the state carried."""
RICH = dataclasses.replace(
    PLAIN,
    parameters="lora",
    overlap=3,
    learn_overlap=True,
    update_every=2,
    replay=ReplayConfig(rows=1, capacity=2),
    optimizer=OptimizerConfig(algorithm="adam", learning_rate=1e-2, decay=1e-3, clip_norm=1.0),
)
"""And another, in which every choice is another one."""


@functools.cache
def language_model(config: GriffinConfig = CONFIG, seed: int = 0) -> LanguageModel:
    return LanguageModel(untrained(config, seed), ByteTokenizer())


def write_templates(folder: Path, config: GriffinConfig = CONFIG) -> str:
    """Templates whose B is not zero, with two codes; returns the folder."""
    hyper, rng = HyperConfig(templates=3, rank=2), np.random.default_rng(0)
    templates = {
        name: 0.3 * rng.normal(size=x.shape).astype(np.float32)
        for name, x in fresh_templates(config, hyper, seed=0).items()
    }
    first, second = np.asarray(fresh_codes(hyper, 2, seed=0))
    codes = {"one": first, "two": second}
    written = hyper_adapters.HyperAdapters(
        folder, hyper, config.num_layers, "base", templates, codes
    )
    hyper_adapters.write(folder, written)
    return str(folder)


def ids_of(length: int, seed: int = 0) -> np.ndarray:
    """Of few different bytes, so that there is something to learn."""
    return np.random.default_rng(seed).integers(97, 101, length, np.int32)


def documents(*lengths: int) -> InMemory:
    """Documents of so many ids."""
    return InMemory(
        HeldOut(f"document {n}", Document(ids_of(length, n)), max(length - 1, 1))
        for n, length in enumerate(lengths)
    )


@functools.cache
def statistics(choices: DynamicConfig = PLAIN) -> Statistics:
    return gradient_statistics(language_model(), documents(30, 20), choices, segments=6)


def run(learner: Learner, texts: list[np.ndarray], first: int = 0) -> np.ndarray:
    """Log-probabilities [S, T] of texts of equal length, from the segment at `first` on."""
    choices, parts = learner.choices, []
    replays = [make_replay(choices, None) for _ in texts]
    for start in range(0, len(texts[0]) - 1, choices.segment_length):
        length = min(choices.segment_length, len(texts[0]) - 1 - start)
        rows = [
            replay and segments.replayed(choices, replay.next(ids[start : start + length + 1]))
            for replay, ids in zip(replays, texts, strict=True)
        ]
        if start >= first:
            segment = segments.stacked([segments.cut(choices, ids, start, length) for ids in texts])
            replayed = segments.stacked(rows) if choices.replay.rows else None
            parts.append(np.asarray(learner.step(segment, replayed).logp_SL)[:, :length])
    return np.concatenate(parts, 1)


def log_probs(learner: Learner, ids: np.ndarray) -> np.ndarray:
    """Of every target of one document that begins anew."""
    learner.begin(1)
    return run(learner, [ids])[0]
