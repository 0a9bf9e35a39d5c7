# SPDX-License-Identifier: Apache-2.0
"""From the numbers of seeds to curves, tables and plots with intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.intervals import Interval, method, t_interval
from eval.plots import Line, bars, lines
from eval.results import Table

Arms = Mapping[str, Sequence[Mapping[str, Any]]]
"""Arm -> the numbers of its seeds."""


def values(cells: Sequence[Mapping[str, Any]], *names: str) -> np.ndarray:
    """The numbers under nested names, [seeds, ...]."""

    def inner(cell: Any) -> Any:
        for name in names:
            cell = cell[name]
        return cell

    return np.asarray([inner(cell) for cell in cells], np.float64)


def curve(label: str, x: Sequence[float], values_SX: np.ndarray) -> Line:
    """Means over seeds and their intervals."""
    intervals = [t_interval(column) for column in values_SX.T]
    return Line(
        label,
        x,
        [one.mean for one in intervals],
        [one.low for one in intervals],
        [one.high for one in intervals],
    )


def plot(
    arms: Arms, *names: str, title: str, xlabel: str, ylabel: str, scale: float = 1.0
) -> Callable[[Path], None]:
    """What draws the curve of every arm under these names; scale: of x from one to the next."""
    drawn = []
    for arm, cells in arms.items():
        values_SX = values(cells, *names)
        x = [scale * (number + 1) for number in range(values_SX.shape[1])]
        drawn.append(curve(arm, x, values_SX))
    seeds = max(len(cells) for cells in arms.values())
    return partial(
        lines,
        curves=drawn,
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
        note=method(seeds, "seeds"),
    )


def bar_plot(
    intervals: Mapping[str, Interval], *, title: str, ylabel: str
) -> Callable[[Path], None]:
    """What draws a bar for each name."""
    return partial(
        bars,
        values={name: (one.mean, one.low, one.high) for name, one in intervals.items()},
        title=title,
        ylabel=ylabel,
        note=method(max(one.count for one in intervals.values()), "seeds"),
    )


def interval_table(title: str, first: str, rows: Mapping[str, Mapping[str, Interval]]) -> Table:
    """A row for each name, a column of mean and half the interval for each number."""
    columns = list(next(iter(rows.values())))
    return Table(
        title,
        (first, *columns),
        [[name, *(shown(of[column]) for column in columns)] for name, of in rows.items()],
    )


def shown(interval: Interval) -> str:
    """mean ± half of the interval."""
    if math.isnan(interval.low):
        return f"{interval.mean:.3g}"
    return f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}"


def as_numbers(interval: Interval) -> dict[str, float | int | None]:
    """JSON; None for no interval."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in interval._asdict().items()
    }
