# SPDX-License-Identifier: Apache-2.0
"""A run that is given another number of steps than it was begun with.

With the schedule wsd a run is the same, however many steps it has, up to where its learning rate
begins to fall (optim.decay_start). So another number of steps is no other run as long as training
goes on from a checkpoint that is not later than that, in the old schedule and in the new one. The
papers of WSD do the same: they keep the checkpoint before the decay and go on from it (MiniCPM,
arXiv 2404.06395, section 4; Hägele et al., arXiv 2405.18392), and never warm up a decayed model
again. What has decayed already is kept as a run of its own (where the program is killed before all
of it is there, the next start undoes it):

    runs/NAME/checkpoints/80/                      where the run goes on
    runs/NAME/decayed-100/                         the run as it was: config.json, metrics.jsonl,
    runs/NAME/decayed-100/checkpoints/90/ 100/     tokenizer, and the steps after 80

A cosine falls from the warm-up on, by an amount that hangs on the number of steps: refused.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from checkpoints import files, store
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import FILES
from recurrentgemma.text.tokenizer_files import BESIDE
from training.configs import TrainConfig
from training.optim import decay_start
from training.run_folder import METRICS

DECAYED = "decayed-{step}"
"""The folder, in a run's, of a model whose decay another number of steps puts off."""
UNFINISHED = "decayed.unfinished"
"""That folder until everything is in it."""


def prepare(
    run_dir: Path, saved: TrainConfig, asked: TrainConfig, report: Callable[[str], None] = print
) -> None:
    """Make the newest checkpoint of a run one that `asked`, with other steps, can go on from.

    Raises UserError: there is none, or another program trains the run.
    """
    if saved.steps == asked.steps:
        return
    with files.locked(run_dir):
        steps = store.all_steps(run_dir)
        start = step_to_go_on_from(run_dir, saved, asked, steps)
        if steps and start < steps[-1]:
            kept = _set_aside(run_dir, [step for step in steps if step > start])
            report(
                f"{run_dir} goes on from step {start}, before its learning rate began to fall; "
                f"what had decayed, to step {steps[-1]}, is kept as {kept}"
            )


def step_to_go_on_from(
    run_dir: Path, saved: TrainConfig, asked: TrainConfig, steps: Sequence[int]
) -> int:
    """The newest of `steps`, those on disk, that both schedules come to alike; 0 if none was saved.

    Raises UserError: there is none; it says why, and what can be done.
    """
    newest = max(steps, default=0)
    if newest == 0:
        return 0
    change = f"steps: {saved.steps} -> {asked.steps}"
    fresh = f"begin another run from its parameters, --init-from {run_dir} --run-dir NEW"
    if saved.prune.penalty:
        raise UserError(
            f"{change}: the prune.penalty of every step hangs on how many there are, so {run_dir}, "
            f"at step {newest}, must keep its {saved.steps}; {fresh}"
        )
    before, after = (decay_start(config.optimizer, config.steps) for config in (saved, asked))
    if before is None or after is None:
        raise UserError(
            f"{change}: with optimizer.schedule=cosine the learning rate of every step hangs on "
            f"how many there are, so {run_dir}, at step {newest}, must keep its {saved.steps}; "
            f"{fresh}, or choose --optimizer.schedule wsd for runs that may grow"
        )
    if asked.steps < saved.steps and newest > after:
        constant = 1 - asked.optimizer.decay_fraction
        if constant == 0:
            raise UserError(
                f"{change}: with optimizer.decay_fraction=1 the learning rate falls from the first "
                f"step on, so {run_dir}, at step {newest}, must keep its {saved.steps}; {fresh}"
            )
        least = math.ceil(newest / constant)
        while (decay_start(asked.optimizer, least) or 0) < newest:
            least += 1
        raise UserError(
            f"{change}: the learning rate would have begun to fall at step {after}, and {run_dir} "
            f"is at step {newest}; the fewest steps that it can still be given are {least}"
        )
    start = max((step for step in steps if step <= min(before, after)), default=None)
    if start is None:
        raise UserError(
            f"{change}: the learning rate of {run_dir} fell from step {before} on, and no "
            f"checkpoint from before is left (its steps are {', '.join(map(str, steps))}); a "
            f"decayed model is not warmed up again in the same run: {fresh}"
        )
    return start


def undo_unfinished(run_dir: Path) -> None:
    """Where a program was killed while it moved a run's decayed steps, they go back.

    Raises UserError: another program trains the run.
    """
    unfinished = run_dir / UNFINISHED
    if not unfinished.exists():
        return
    with files.locked(run_dir):
        for folder in sorted((unfinished / store.STEPS).glob("*"), key=lambda path: int(path.name)):
            folder.rename(run_dir / store.STEPS / folder.name)
        shutil.rmtree(unfinished)


def _set_aside(run_dir: Path, steps: Sequence[int]) -> Path:
    """Move these steps into a run folder of their own, which has its name once all are there."""
    unfinished = run_dir / UNFINISHED
    (unfinished / store.STEPS).mkdir(parents=True)
    for name in (store.CONFIG, METRICS, *FILES, *BESIDE):
        if (run_dir / name).is_file():
            shutil.copyfile(run_dir / name, unfinished / name)
    for step in sorted(steps, reverse=True):  # so that the newest left is always one to go on from
        (run_dir / store.STEPS / str(step)).rename(unfinished / store.STEPS / str(step))
    kept, number = run_dir / DECAYED.format(step=max(steps)), 1
    while kept.exists():
        number += 1  # of a decay before this one
        kept = run_dir / f"{DECAYED.format(step=max(steps))}-{number}"
    unfinished.rename(kept)
    return kept
