# SPDX-License-Identifier: Apache-2.0
"""`griffin eval synthetic`: the Griffin paper's copying and recall tasks, trained and measured
here."""

import dataclasses
from typing import Annotated, Any

import tyro

from eval.options import Result, ResultOptions
from eval.tasks.synthetic_models import ModelName
from eval.tasks.synthetic_task import TASKS, TaskName
from eval.tasks.synthetic_training import STUDY, TrainingChoices
from recurrentgemma.errors import UserError

DESCRIPTION = """Train Griffin, Hawk and an MQA Transformer of 250,000 parameters for a task of the
Griffin paper (section 6.2), and measure them at lengths far beyond that of training.

A step takes 0.09 CPU seconds, so that on two cores that do nothing else induction_heads should take
about an hour and selective_copying 80 minutes. Killed, the same command goes on where it was.

examples:
  griffin eval synthetic induction_heads --out results/induction
  griffin eval synthetic selective_copying --models hawk --seeds 1 --steps 2000
"""

MODELS: tuple[ModelName, ...] = ("griffin", "hawk", "mqa")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticArguments:
    task: Annotated[TaskName, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """selective_copying or induction_heads."""
    models: Annotated[tuple[ModelName, ...], tyro.conf.arg(metavar="MODEL...")] = MODELS
    """Of griffin, hawk and mqa, those to train."""
    seeds: int = 3
    """Trainings of each model, from other parameters and on other sequences."""
    lengths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N...")] = ()
    """At which to measure; by default from a quarter of the training length, doubling up to 65,536
    tokens."""
    longest_mqa: int = 8192
    """Global attention is not measured at longer ones: its cost grows with their square."""
    sequences: int = 64
    """That are measured at each length."""
    steps: int | None = None
    """Of training; by default as the study of the task, and so are the next four."""
    tokens_per_step: int | None = None
    """Of all sequences of a step."""
    shortest: int | None = None
    """Tokens of the first sequences, which then double up to the training length; that length
    itself for training at one length from the start, as the paper's."""
    weight_decay: float | None = None
    """Times the learning rate."""
    learning_rate: float | None = None
    """Of AdamW, at its highest."""
    result: Result = dataclasses.field(default_factory=ResultOptions)

    def check(self) -> None:
        """Raises UserError: an option is out of range, or has no effect."""
        for name in ("seeds", "sequences", "longest_mqa"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")

    def training(self) -> TrainingChoices:
        """The study's, and what is given otherwise."""
        names = ("steps", "tokens_per_step", "shortest", "weight_decay", "learning_rate")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(STUDY[self.task], **given)


def main(argv: list[str]) -> None:
    """Train and measure. Raises UserError: see synthetic.py, options.py and results.py."""
    run(
        tyro.cli(
            SyntheticArguments, prog="griffin eval synthetic", description=DESCRIPTION, args=argv
        )
    )


def run(arguments: SyntheticArguments) -> dict[str, Any]:
    """The record that is shown."""
    arguments.check()
    from eval.progress_bar import progress_bar
    from eval.results import open_results, show
    from eval.tasks.synthetic import check_lengths, default_lengths, run_cell
    from eval.tasks.synthetic_report import plots, summary, table

    task, training = TASKS[arguments.task], arguments.training()
    lengths = arguments.lengths or default_lengths(task)
    check_lengths(task, [*lengths, training.shortest])
    settings = {
        "task": arguments.task,
        "models": arguments.models,
        "seeds": arguments.seeds,
        "lengths": lengths,
        "longest_mqa": arguments.longest_mqa,
        "sequences": arguments.sequences,
        "training": dataclasses.asdict(training),
    }
    with open_results(arguments.result.out, kind="synthetic", settings=settings) as results:
        if results.finished is None:
            cells = []
            everything = training.steps * len(arguments.models) * arguments.seeds
            with progress_bar(arguments.task, everything, unit="steps") as bar:
                for model in arguments.models:
                    for seed in range(arguments.seeds):
                        at = [n for n in lengths if model != "mqa" or n <= arguments.longest_mqa]
                        cells.append(
                            run_cell(
                                *(model, seed, task, training),
                                lengths=at,
                                sequences=arguments.sequences,
                                results=results,
                                bar=bar,
                                before=training.steps * len(cells),
                            )
                        )
            results.finish(
                summary(cells, task),
                tables=[table(cells, task)],
                plots=plots(cells, arguments.task, task),
            )
        record = results.finished
    assert record is not None
    show(record, as_json=arguments.result.json, folder=arguments.result.out)
    return record
