# SPDX-License-Identifier: Apache-2.0
"""What a study of a synthetic task has shown: numbers, a table, and its two plots."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.intervals import Interval, method, t_interval
from eval.plots import Line, lines
from eval.results import Table
from eval.tasks.synthetic import Cell
from eval.tasks.synthetic_task import SyntheticTask

SOLVED = 0.99  # accuracy from which a length counts as solved


def accuracies(cells: Sequence[Cell], task: SyntheticTask) -> dict[str, dict[int, list[float]]]:
    """Model -> length -> the accuracy of answers of each seed."""
    by_model: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        lengths = by_model.setdefault(cell.model, {})
        for length, (answers, _, sequences) in cell.solved.items():
            lengths.setdefault(int(length), []).append(answers / (sequences * task.answers))
    return by_model


def steps_to_solve(cell: Cell) -> int | None:
    """The step from which its accuracy in training stayed at SOLVED or above; None: it did not."""
    below = [
        step for step, accuracy in zip(cell.steps, cell.accuracy, strict=True) if accuracy < SOLVED
    ]
    last = below[-1] if below else 0
    later = [step for step in cell.steps if step > last]
    return later[0] if later else None


def summary(cells: Sequence[Cell], task: SyntheticTask) -> dict[str, Any]:
    """As JSON: the accuracy of each model at each length, by seed, and all cells."""
    return {
        "trained_at": task.length,
        "accuracy": {
            model: {str(length): values for length, values in lengths.items()}
            for model, lengths in accuracies(cells, task).items()
        },
        "steps_to_solve": {
            model: [steps_to_solve(cell) for cell in cells if cell.model == model]
            for model in dict.fromkeys(cell.model for cell in cells)
        },
        "cells": [dataclasses.asdict(cell) for cell in cells],
    }


def table(cells: Sequence[Cell], task: SyntheticTask) -> Table:
    """A row for each model: means over its seeds, and how far all of its seeds go."""
    rows = []
    for model, lengths in accuracies(cells, task).items():
        solved = [n for n, values in sorted(lengths.items()) if min(values) >= SOLVED]
        steps = [steps_to_solve(cell) for cell in cells if cell.model == model]
        known = [step for step in steps if step is not None]
        longest = max(lengths)
        rows.append(
            (
                model,
                len(steps),
                f"{len(known)} of {len(steps)}",
                round(float(np.median(known))) if known else None,
                float(np.mean(lengths[task.length])) if task.length in lengths else None,
                max(solved, default=None),
                longest,
                float(np.mean(lengths[longest])),
            )
        )
    columns = (
        *("model", "seeds", "solved in training", "median steps to that"),
        *(f"accuracy at {task.length:,}", "longest solved by all", "longest measured", "there"),
    )
    return Table(
        f"Trained at {task.length:,} tokens; solved is {SOLVED:.0%} of answers", columns, rows
    )


def plots(
    cells: Sequence[Cell], name: str, task: SyntheticTask
) -> dict[str, Callable[[Path], None]]:
    """learning: accuracy against steps; accuracy: against length. Means and
    intervals over seeds."""
    return {
        "learning": partial(_draw_learning, cells, name, task),
        "accuracy": partial(_draw_accuracy, cells, name, task),
    }


def _draw_learning(cells: Sequence[Cell], name: str, task: SyntheticTask, path: Path) -> None:
    curves = []
    for model in dict.fromkeys(cell.model for cell in cells):
        of_model = [cell for cell in cells if cell.model == model]
        points = zip(*(cell.accuracy for cell in of_model), strict=True)
        curves.append(_line(model, of_model[0].steps, list(map(list, points))))
    lines(
        path,
        curves,
        title=f"{name.replace('_', ' ').capitalize()}: learning at {task.length:,} tokens",
        xlabel="optimizer steps",
        ylabel="accuracy (share of answers)",
        note=method(_seeds(cells), "seeds"),
    )


def _draw_accuracy(cells: Sequence[Cell], name: str, task: SyntheticTask, path: Path) -> None:
    curves = [
        _line(model, sorted(lengths), [lengths[length] for length in sorted(lengths)])
        for model, lengths in accuracies(cells, task).items()
    ]
    lines(
        path,
        curves,
        title=f"{name.replace('_', ' ').capitalize()}: beyond the training length",
        xlabel="length (tokens)",
        ylabel="accuracy (share of answers)",
        log_x=True,
        marks={"trained at": task.length},
        note=method(_seeds(cells), "seeds"),
    )


def _line(model: str, x: Sequence[int], values: Sequence[Sequence[float]]) -> Line:
    """values: of each x, by seed. An interval does not go beyond what an accuracy can be."""
    intervals = [t_interval(by_seed) for by_seed in values]
    low, high = ([min(max(end, 0.0), 1.0) for end in ends] for ends in _ends(intervals))
    return Line(model, x, [interval.mean for interval in intervals], low, high)


def _ends(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    return [interval.low for interval in intervals], [interval.high for interval in intervals]


def _seeds(cells: Sequence[Cell]) -> int:
    return len({cell.seed for cell in cells})
