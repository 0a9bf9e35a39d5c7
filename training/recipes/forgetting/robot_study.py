# SPDX-License-Identifier: Apache-2.0
"""RoboticSequence: does fine-tuning forget the last stages while it learns the first, the more the
more new ones there are, and which way of retention keeps them?

One new stage (push) or two (hammer, push) before the two that the teacher knows (peg-unplug-side,
push-wall). Measured of each run: success of a stage from its own start, by steps, whose least value
says what was forgotten; stages solved from the beginning; forward transfer,
(AUC - AUC of scratch) / (1 - AUC of scratch) of the success curve (paper, table 6, which has no
row for EM); the divergence from the teacher.

Smaller than the paper's: four layers of 128 (256), 100,000 steps a run (curves of 4 million), 3
seeds (20), a teacher that is a clone of scripted experts. The paper's figures are of other versions
of the tasks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from eval.intervals import Interval, method, t_interval
from eval.plots import lines
from eval.results import Table
from training.recipes import findings
from training.recipes.experiment import Experiment, Findings
from training.recipes.findings import Arms, as_numbers, shown, values
from training.recipes.forgetting.robot_teacher import FINE_TUNING, SCRATCH, Method, RobotArm
from training.recipes.forgetting.robot_train import train_robots
from training.recipes.forgetting.robots import STAGES

METHODS: dict[Method, float] = {"scratch": 0, "fine-tuning": 0, "EWC": 100, "BC": 1, "EM": 0}
PAPER = {  # table 6: stage -> new stages before the known ones -> forward transfer
    "peg-unplug-side-v3": {
        1: {FINE_TUNING: 0.28, "EWC": 0.77, "BC": 0.92},
        2: {FINE_TUNING: 0.15, "EWC": 0.55, "BC": 0.95},
    },
    "push-wall-v3": {
        1: {FINE_TUNING: 0.18, "EWC": 0.88, "BC": 0.93},
        2: {FINE_TUNING: 0.17, "EWC": 0.65, "BC": 0.97},
    },
}


def robot_arms(stages: Sequence[str], *, most_new: int, **smaller: Any) -> dict[str, RobotArm]:
    """1, ..., most_new new stages x {scratch, fine-tuning, EWC, BC, EM}; the last stages of these,
    whose first `most_new` are new where all are there."""
    arms = {}
    for new in range(1, most_new + 1):
        sequence = tuple(stages[most_new - new :])
        base = RobotArm(stages=sequence, new=new, **smaller)
        for name, weight in METHODS.items():
            arm = dataclasses.replace(base, method=name, weight=float(weight))
            arms[f"{new} new/{name}"] = arm
    return arms


def conclude(arms: Arms) -> Findings:
    """Of each number of new stages: forward transfer beside the paper's, what is forgotten, what is
    solved; curves; a verdict."""
    places = list(dict.fromkeys(arm.split("/")[0] for arm in arms))
    numbers: dict[str, Any] = {}
    transfers, plots, words = [], {}, []
    least: dict[str, dict[str, Interval]] = {}
    ends: dict[str, dict[str, Interval]] = {}
    for place in places:
        of_place = {arm.split("/")[1]: cells for arm, cells in arms.items() if _in(arm, place)}
        choices = of_place[SCRATCH][0]["choices"]
        stages, new = choices["stages"], choices["new"]
        numbers[place] = {
            name: {
                "solved": as_numbers(t_interval(values(cells, "solved")[:, -1])),
                "kl": as_numbers(t_interval(values(cells, "kl")[:, -1])),
                "held": as_numbers(t_interval(values(cells, "held")[:, -1])),
                "steps_per_second": float(values(cells, "steps_per_second")[:, 1:].mean()),
            }
            for name, cells in of_place.items()
        }
        for name, cells in of_place.items():
            ends[f"{place}, {name}"] = {
                "stages solved": t_interval(values(cells, "solved")[:, -1]),
                **{
                    stage: t_interval(_success(cells, index)[:, -1])
                    for index, stage in enumerate(stages)
                },
            }
        for index in range(new, len(stages)):
            stage, alone = stages[index], _auc(of_place[SCRATCH], index).mean()
            for name, cells in of_place.items():
                success = _success(cells, index)
                where = numbers[place][name].setdefault("far", {}).setdefault(stage, {})
                least.setdefault(f"{place}, {name}", {})[stage] = t_interval(success.min(1))
                where["least"] = as_numbers(t_interval(success.min(1)))
                if name == SCRATCH or alone == 1:
                    continue
                transfer = t_interval((_auc(cells, index) - alone) / (1 - alone))
                where["forward_transfer"] = as_numbers(transfer)
                printed = PAPER.get(stage, {}).get(new, {}).get(name)
                transfers.append([place, stage, name, shown(transfer), printed])
            plots[f"{stage}-{new}-new"] = _curves(
                {name: (cells, _success(cells, index)) for name, cells in of_place.items()},
                title=f"{stage} from its start, {place} stage(s) before the known ones",
                ylabel="share of episodes solved",
            )
        plots[f"kl-{new}-new"] = _curves(
            {name: (cells, values(cells, "kl")) for name, cells in of_place.items()},
            title=f"Divergence from the teacher on its states, {place}",
            ylabel="KL(teacher || actor), nats",
        )
        plots[f"solved-{new}-new"] = _curves(
            {name: (cells, values(cells, "solved")) for name, cells in of_place.items()},
            title=f"Stages solved in training, of {len(stages)}, {place}",
            ylabel="stages",
        )
        words.append(_verdict(place, of_place, stages, new))
    columns = ("new stages", "stage", "method", "here", "the paper (table 6)")
    return Findings(
        "; ".join(words) + ".",
        {"by_place": numbers},
        [
            Table("Forward transfer", columns, transfers),
            *_tables("Least success of a known stage", least),
            *_tables("At the end", ends),
        ],
        plots,
    )


def _verdict(
    place: str, of_place: Mapping[str, Sequence[Mapping[str, Any]]], stages: Sequence[str], new: int
) -> str:
    """What fine-tuning has lost of the known stages, and what each method has kept of them."""

    def known(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.mean([_success(cells, index) for index in range(new, len(stages))], 0)

    before = known(of_place[FINE_TUNING])[:, 0]
    lost = t_interval(before - known(of_place[FINE_TUNING]).min(1))
    forgets = not lost.low <= 0 <= lost.high if lost.count > 1 else lost.mean > 0
    order = sorted(of_place, key=lambda name: -float(known(of_place[name]).mean()))
    kept = ", ".join(f"{name} {known(of_place[name]).mean():.2f}" for name in order)
    solved = ", ".join(f"{name} {values(of_place[name], 'solved')[:, -1].mean():.2f}"
                       for name in order)  # fmt: skip
    return (
        f"{place}: of the known stages' success, {before.mean():.2f} before, fine-tuning loses "
        f"{shown(lost)} at its worst ({'it forgets' if forgets else 'not more than seeds differ'})"
        f"; their mean over the run: {kept}; stages solved at the end, of {len(stages)}: {solved}"
    )


def _tables(title: str, rows: Mapping[str, Mapping[str, Interval]]) -> list[Table]:
    """One for each list of stages."""
    kinds: dict[tuple[str, ...], dict[str, Mapping[str, Interval]]] = {}
    for name, row in rows.items():
        kinds.setdefault(tuple(row), {})[name] = row
    return [findings.interval_table(title, "new stages, method", of) for of in kinds.values()]


def _curves(
    of_place: Mapping[str, tuple[Sequence[Mapping[str, Any]], np.ndarray]],
    *,
    title: str,
    ylabel: str,
) -> Any:
    """From the start, or from the first number that is known."""
    drawn, seeds = [], 0
    for name, (cells, values_SX) in of_place.items():
        choices = cells[0]["choices"]
        x = np.arange(values_SX.shape[1]) * choices["steps"] / choices["measured"]
        known = ~np.isnan(values_SX).any(0)
        drawn.append(findings.curve(name, x[known].tolist(), values_SX[:, known]))
        seeds = max(seeds, len(cells))
    note = method(seeds, "seeds")
    return partial(
        lines, curves=drawn, title=title, xlabel="steps of fine-tuning", ylabel=ylabel, note=note
    )


def _success(cells: Sequence[Mapping[str, Any]], index: int) -> np.ndarray:
    """[seeds, measured], the start among them."""
    return values(cells, "success")[:, :, index]


def _auc(cells: Sequence[Mapping[str, Any]], index: int) -> np.ndarray:
    """[seeds], of a curve over [0, 1]."""
    success = _success(cells, index)
    return np.trapezoid(success, axis=1) / (success.shape[1] - 1)


def _in(arm: str, place: str) -> bool:
    return arm.split("/")[0] == place


ROBOTS = Experiment(
    name="robots",
    question="does fine-tuning forget a robot's last stages, and which method keeps them?",
    cost="about 6 CPU hours, an estimate",
    arms=robot_arms(STAGES, most_new=2, widths=(128,) * 4),
    measure_in=train_robots,
    conclude=conclude,
    seeds=3,
)
