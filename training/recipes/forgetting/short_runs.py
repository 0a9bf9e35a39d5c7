# SPDX-License-Identifier: Apache-2.0
"""What minutes of a run say that takes days: where its curves begin and end, its speed, and what
the whole of it would cost.

    curves = watched(records, "lstm/ks, seed 0", ("return", "held_loss"))
    price(500_000_000, steps_per_second=300.0, environment_share=0.4)

The price is arithmetic. `core_hours`: the paper's steps at the speed that was measured here.
`gpu_hours`: an estimate from below, as if learning and acting took no time on a GPU and CORES cores
like this one stepped the environments.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eval.intervals import Interval, t_interval
from eval.results import Table
from training.recipes import findings
from training.recipes.experiment import Findings
from training.recipes.findings import Arms, as_numbers

CORES = 16
SPEED = ("steps_per_second", "environment_share")


def watched(
    records: Iterable[Mapping[str, Any]], label: str, shown: Sequence[str]
) -> dict[str, list[Any]]:
    """The curves of a run by name, a line of progress for each record."""
    curves: dict[str, list[Any]] = {}
    for number, record in enumerate(records, 1):
        for name, value in record.items():
            curves.setdefault(name, []).append(value)
        values = "  ".join(
            f"{name} {record[name]:.4g}" for name in shown if record.get(name) is not None
        )
        print(
            f"  {label}: {number}  {values}  {record['steps_per_second']:,.0f} steps/s",
            file=sys.stderr,
            flush=True,
        )
    return curves


def price(steps: int, *, steps_per_second: float, environment_share: float) -> dict[str, float]:
    """Of a run of so many steps; see the module."""
    hours = steps / steps_per_second / 3600
    return {
        "steps": steps,
        "core_hours": hours,
        "gpu_hours": hours * environment_share / CORES,
    }


def ends(cells: Sequence[Mapping[str, Any]], name: str) -> tuple[Interval, Interval]:
    """The first and the last value of a curve that is there, over seeds; NaN of none."""
    kept = [[x for x in cell["curves"].get(name, ()) if x is not None] for cell in cells]
    nothing = float("nan")
    first, last = ([one[at] if one else nothing for one in kept] for at in (0, -1))
    return t_interval(first), t_interval(last)


def conclude_short(arms: Arms, shown: Sequence[str], *, steps: int, frames: int) -> Findings:
    """A table of where each arm's curves begin and end, and the price of the paper's run of so many
    steps, each of so many frames."""
    rows, prices, numbers = {}, {}, {}
    for arm, cells in arms.items():
        pairs = {name: ends(cells, name) for name in shown}
        rows[arm] = [
            text
            for first, last in pairs.values()
            for text in (f"{findings.shown(first)} to {findings.shown(last)}",)
        ]
        numbers[arm] = {
            name: {"first": as_numbers(first), "last": as_numbers(last)}
            for name, (first, last) in pairs.items()
        }
        speed, share = (
            float(np.mean([np.mean(cell["curves"][name]) for cell in cells])) for name in SPEED
        )
        prices[arm] = {"frames_per_second": frames * speed} | price(
            steps, steps_per_second=speed, environment_share=share
        )
    table = Table("From the first to the last measurement", ("arm", *shown), [
        [arm, *row] for arm, row in rows.items()
    ])  # fmt: skip
    costs = Table(
        f"Price of {steps:,} steps",
        ("arm", "frames/s here", "core hours here", "GPU hours, an estimate from below"),
        [
            [
                arm,
                *(f"{of[n]:,.0f}" for n in ("frames_per_second", "core_hours", "gpu_hours")),
            ]
            for arm, of in prices.items()
        ],
    )
    parts = [
        f"{arm}: {', '.join(f'{name} {text}' for name, text in zip(shown, row, strict=True))}"
        for arm, row in rows.items()
    ]
    dearest = max(prices.values(), key=lambda of: of["core_hours"])
    verdict = (
        f"A short run says nothing of the claim. {'; '.join(parts)}. {steps:,} steps would take up "
        f"to {dearest['core_hours']:,.0f} hours of one such core."
    )
    return Findings(verdict, {"ends": numbers, "price": prices}, [table, costs])
