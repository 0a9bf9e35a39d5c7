# SPDX-License-Identifier: Apache-2.0
"""A Griffin pruned by half its MLP units, in several ways, against a model of that size trained
from scratch on the same tokens.

Every arm reads the same tokens: `steps` of them, then it is pruned, then `further_steps` with a
fresh optimizer. The small model and the one that is never pruned read them, too.

    dense          not pruned
    small          half the units from the first step on
    variation, magnitude, random     criteria of training/pruning/removal.py
    group lasso    trained with --prune.penalty, then by variation: zero units first
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eval.documents import InMemory
from eval.perplexity import score_documents
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import parameter_count
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import Flat, flat_params, from_flat_params
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from training.data.batches import Batches
from training.data.document import Document
from training.data.held_out import HeldOut
from training.data.plays import plays
from training.named_runs import tiny_bytes
from training.optim import OptimConfig, learning_rate_schedule, make_optimizer
from training.pruning.activity import unit_activity
from training.pruning.config import PruneConfig
from training.pruning.removal import MULTIPLE, Criterion, choose_units, remove_units
from training.pruning.shrink import measure_zero_units, shrinking
from training.recipes.experiment import Cell
from training.step import init_train_state, make_train_step

Way = Literal["dense", "small", "variation", "magnitude", "random", "group lasso"]
CRITERIA: dict[str, Criterion] = {
    "variation": "variation",
    "magnitude": "magnitude",
    "random": "random",
    "group lasso": "variation",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruned:
    """An arm. text_bytes: of the plays, what decides which units go; scored_bytes: of held-out
    ones."""

    way: Way
    model: GriffinConfig = dataclasses.field(
        default_factory=lambda: dataclasses.replace(tiny_bytes().model, remat="none")
    )
    keep: float = 0.5
    multiple: int = MULTIPLE
    penalty: float = 0.0
    noise: float = 0.0
    steps: int = 400
    further_steps: int = 100
    batch_size: int = 4
    sequence_length: int = 128
    learning_rate: float = 3e-3
    further_rate: float = 1e-3
    text_bytes: int = 32_768
    scored_bytes: int = 65_536


class Texts(NamedTuple):
    """The plays in bytes: to learn from, and held out."""

    learned: Sequence[Document]
    held_out: Sequence[Document]


@functools.cache
def texts() -> Texts:
    """Fetched once. Raises UserError: they cannot be."""
    tokenizer = ByteTokenizer()

    def documents(source: Any) -> list[Document]:
        return [
            Document(np.array(tokenizer.encode(source[n]), np.int32)) for n in range(len(source))
        ]

    learned, held_out = plays()
    return Texts(documents(learned), documents(held_out))


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Seed by seed: arms whose training before the pruning is the same share it."""
    for seed in sorted({cell.seed for cell in cells}):
        trained: dict[Any, Flat] = {}
        for cell in (cell for cell in cells if cell.seed == seed):
            choices: Pruned = cell.choices
            first = first_stage(choices)
            if first not in trained:
                trained[first] = learn(choices, first, seed)
            yield cell, finish(choices, trained[first], seed)


class FirstStage(NamedTuple):
    """What decides a model before it is pruned."""

    model: GriffinConfig
    prune: PruneConfig


def first_stage(choices: Pruned) -> FirstStage:
    model, prune = choices.model, PruneConfig()
    if choices.way == "small":
        units = round(choices.keep * model.mlp_width / choices.multiple) * choices.multiple
        model = dataclasses.replace(model, mlp_width=units)
    if choices.way == "group lasso":
        prune = PruneConfig(penalty=choices.penalty, noise=choices.noise)
    return FirstStage(model, prune)


def learn(choices: Pruned, first: FirstStage, seed: int) -> Flat:
    """The parameters after the first stage."""
    model = Griffin(first.model, rngs=nnx.Rngs(seed))
    rate = choices.learning_rate
    return taught(choices, model, first.prune, steps=choices.steps, rate=rate, seed=seed, skip=0)


def finish(choices: Pruned, flat: Flat, seed: int) -> dict[str, Any]:
    """Prune, train further, score."""
    config, zero = first_stage(choices).model, 0.0
    before = bits_per_byte(choices, config, flat)
    if choices.way in CRITERIA:
        start = [cut(document, choices.text_bytes) for document in texts().learned[:1]]
        documents = InMemory(HeldOut(f"play {n}", text, 1) for n, text in enumerate(start))
        activity = unit_activity(from_flat_params(config, flat), documents)
        removal = choose_units(
            config,
            flat,
            activity,
            keep=choices.keep,
            criterion=CRITERIA[choices.way],
            multiple=choices.multiple,
            seed=seed,
        )
        zero = float(removal.constant_LF.mean())
        config, flat = remove_units(config, flat, activity, removal)
    pruned = bits_per_byte(choices, config, flat)
    flat = taught(
        choices,
        from_flat_params(config, jax.tree.map(jnp.copy, flat)),  # a step donates its parameters
        PruneConfig(),
        steps=choices.further_steps,
        rate=choices.further_rate,
        seed=seed,
        skip=choices.steps,
    )
    after = bits_per_byte(choices, config, flat)
    started = time.perf_counter()
    bits_per_byte(choices, config, flat)  # compiled now
    seconds = time.perf_counter() - started
    return {
        "bits_before": before,
        "bits_pruned": pruned,
        "bits_after": after,
        "mlp_width": config.mlp_width,
        "parameters": parameter_count(config),
        "zero_units": zero,
        "tokens_per_second": choices.scored_bytes / seconds,
    }


def taught(
    choices: Pruned,
    model: Griffin,
    prune: PruneConfig,
    *,
    steps: int,
    rate: float,
    seed: int,
    skip: int,
) -> Flat:
    """The parameters after so many steps, on the batches after `skip` others."""
    graphdef, params = nnx.split(model, nnx.Param)
    optim = OptimConfig(learning_rate=rate, warmup_steps=max(1, steps // 20))
    tx = make_optimizer(optim, steps=steps)
    if prune.penalty:
        schedule = learning_rate_schedule(optim, steps)
        tx = shrinking(tx, prune, model.config, steps=steps, learning_rate=schedule, seed=seed)
    train_step = make_train_step(graphdef, tx, measure=measure_zero_units)
    batches = Batches(
        texts().learned,
        batch_size=choices.batch_size,
        row_length=choices.sequence_length,
        seed=seed,
    )
    for _ in range(skip):
        next(batches)
    train_state = init_train_state(params, tx)
    for _ in range(steps):
        train_state, _ = train_step(train_state, next(batches))
    return flat_params(nnx.merge(graphdef, train_state.params))


def bits_per_byte(choices: Pruned, config: GriffinConfig, flat: Flat) -> float:
    """Of the beginnings of the held-out plays."""
    size = choices.scored_bytes // len(texts().held_out)
    documents = [cut(document, size) for document in texts().held_out]
    return score_documents(
        from_flat_params(config, flat), documents, size * len(documents)
    ).bits_per_byte


def cut(document: Document, size: int) -> Document:
    """Its first `size` bytes, after its first token."""
    return document.cut(0, size + 1)
