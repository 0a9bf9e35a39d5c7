# SPDX-License-Identifier: Apache-2.0
"""The study of a synthetic task: models x seeds, each trained and then measured at many lengths.

A pair of a model and a seed is a cell. A finished cell is kept and not computed again, and a cell
in training is kept every KEPT_EVERY seconds, so that a study that was killed goes on close to where
it was, with the same numbers.
"""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eval.progress_bar import ProgressBar
from eval.results import Results
from eval.tasks.synthetic_models import ModelName, synthetic_model
from eval.tasks.synthetic_task import SyntheticTask, measure
from eval.tasks.synthetic_training import SyntheticState, TrainingChoices, compiled_training
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError

KEPT_EVERY = 60.0  # seconds
LONGEST = 65_536  # tokens, 256 times the training length of induction heads
HELD_OUT = 1_000_000  # added to a seed: sequences that no training of these seeds has drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of one model and seed."""

    model: str
    seed: int
    steps: list[int]
    loss: list[float]
    """Nats an answer, a mean over the steps up to each of `steps`."""
    accuracy: list[float]
    """Of answers in new sequences of the training length, after each of `steps`."""
    solved: dict[str, list[int]]
    """Length -> [right answers, sequences with all answers right, sequences]."""
    seconds: float
    """Of training, on this machine."""


def study_config(model: ModelName, task: SyntheticTask) -> GriffinConfig:
    return synthetic_model(model, window=task.window, context_length=task.length)


def default_lengths(task: SyntheticTask) -> tuple[int, ...]:
    """From a quarter of the training length, doubling up to LONGEST."""
    lengths = [task.length // 4]
    while lengths[-1] < LONGEST:
        lengths.append(2 * lengths[-1])
    return tuple(lengths)


def check_lengths(task: SyntheticTask, lengths: Sequence[int]) -> None:
    """Raises UserError: a sequence so short cannot hold the task."""
    for length in lengths:
        if length < task.shortest:
            raise UserError(f"lengths={length}: expected at least {task.shortest}")


def run_cell(
    model: ModelName,
    seed: int,
    task: SyntheticTask,
    choices: TrainingChoices,
    *,
    lengths: Sequence[int],
    sequences: int,
    results: Results,
    bar: ProgressBar,
    before: int,
) -> Cell:
    """Train one model and measure it, or go on with that, or take what is kept.

    before: steps of the cells before, for the bar.
    """
    name = f"{model}-seed{seed}"
    kept = results.kept(name)
    if kept is not None:
        return Cell(**kept.values)
    config = study_config(model, task)
    state, curve, seconds = _trained(config, seed, task, choices, name, results, bar, before)
    solved = {}
    for length in lengths:
        bar.say(f"{name}: {length:,} tokens")
        tokens_at_once = 2**20  # 4 MiB of ids
        solved[str(length)] = list(
            measure(
                config,
                state.params,
                task,
                length,
                sequences=sequences,
                batch_size=max(1, min(sequences, 32, tokens_at_once // length)),
                seed=HELD_OUT + seed,
            )
        )
    cell = Cell(model=model, seed=seed, **curve, solved=solved, seconds=seconds)
    if results.folder is not None:
        save_model(results.folder / "models" / name, config, state.params)
    results.keep(name, dataclasses.asdict(cell))
    return cell


def save_model(folder: Path, config: GriffinConfig, params: Any) -> None:
    """A checkpoint in our format, in place of one that a killed study has left; it has no
    tokenizer."""
    from checkpoints import store
    from recurrentgemma.params import by_path, unstack

    shutil.rmtree(folder, ignore_errors=True)
    store.write(folder, dict(unstack(config, by_path(params))), config)


def _trained(
    config: GriffinConfig,
    seed: int,
    task: SyntheticTask,
    choices: TrainingChoices,
    name: str,
    results: Results,
    bar: ProgressBar,
    before: int,
) -> tuple[SyntheticState, dict[str, list], float]:
    """The state after the last step, the learning curve, and the seconds it took."""
    training = compiled_training(config, task, choices)
    state = training.start(seed)
    curve: dict[str, list] = {"steps": [], "loss": [], "accuracy": []}
    earlier, kept = 0.0, results.kept(f"{name}-training")
    if kept is not None:
        curve, earlier = kept.values["curve"], kept.values["seconds"]
        leaves, structure = jax.tree.flatten(state)
        arrays = [
            jax.device_put(kept.arrays[f"{i}"].reshape(leaf.shape)) for i, leaf in enumerate(leaves)
        ]
        state = jax.tree.unflatten(structure, arrays)
    started = last_kept = time.monotonic()
    while len(curve["steps"]) * choices.block < choices.steps:
        step = len(curve["steps"]) * choices.block
        state, point = training.advance(state, step)
        loss, accuracy = map(float, jax.device_get(point))
        step += choices.block
        for column, value in (("steps", step), ("loss", loss), ("accuracy", accuracy)):
            curve[column].append(value)
        bar.update(before + step, f"{name}  loss {loss:.4f}  accuracy {accuracy:.3f}")
        now = time.monotonic()
        if now - last_kept > KEPT_EVERY:
            arrays = {f"{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
            values = {"curve": curve, "seconds": earlier + now - started}
            results.keep(f"{name}-training", values, arrays)
            last_kept = now
    return state, curve, earlier + time.monotonic() - started
