# SPDX-License-Identifier: Apache-2.0
"""What few-shot experiments have shown: accuracy in and out of distribution, and who leads where.

Arms are named PLACE/LEARNER.
"""

from collections.abc import Mapping
from typing import Any

from eval.intervals import Interval, t_interval
from training.recipes import findings
from training.recipes.experiment import Findings
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.modular.settings import HYPERNETWORKS

PAPER_OUT = {
    "M 4, K 1": {"ANIL": 46.52, "MAML": 20.53, "linear": 20.42, "non-linear": 20.93},
    "M 4, K 2": {"ANIL": 60.78, "MAML": 55.41, "linear": 76.35, "non-linear": 90.90},
    "M 4, K 4": {"ANIL": 63.14, "MAML": 63.29, "linear": 88.61, "non-linear": 94.90},
    "M 8, K 1": {"ANIL": 55.80, "MAML": 47.42, "linear": 26.67, "non-linear": 26.91},
    "M 8, K 2": {"ANIL": 59.76, "MAML": 60.60, "linear": 87.45, "non-linear": 96.05},
    "M 8, K 4": {"ANIL": 60.63, "MAML": 62.78, "linear": 93.50, "non-linear": 95.68},
}
"""Accuracy out of distribution, %, of the paper's tables A2 to A8 at its own size."""


def conclude(arms: Arms, *, beside: Mapping[str, Mapping[str, float]] | None = None) -> Findings:
    """Tables of accuracy in and out of distribution, and the order of the learners by place.

    beside: the paper's accuracy out of distribution, %, by place and learner.
    """
    rows: dict[str, dict[str, Interval]] = {}
    for arm, cells in arms.items():
        rows[arm] = {
            "in distribution": t_interval(values(cells, "tests", "in", "accuracy")),
            "held out": t_interval(values(cells, "tests", "out", "accuracy")),
            "held-out loss": t_interval(values(cells, "tests", "out", "loss")),
            "decoding R²": t_interval(values(cells, "tests", "decoding")),
        }
        if "episodes" in cells[0]["tests"]["out"]:
            rows[arm]["held-out episodes"] = t_interval(values(cells, "tests", "out", "episodes"))
    tables = [findings.interval_table("Few-shot accuracy", "place/learner", rows)]
    others = _others(arms)
    if others:
        tables.append(findings.interval_table("Other tests, accuracy", "place/learner", others))
    words = []
    for place in dict.fromkeys(arm.split("/")[0] for arm in rows):
        of_place = {
            arm.split("/")[1]: of for arm, of in rows.items() if arm.startswith(f"{place}/")
        }
        words.append(f"{place}: {_order(of_place)}{_paper(beside, place, of_place)}")
    numbers = {
        arm: {name: as_numbers(one) for name, one in (of | others.get(arm, {})).items()}
        for arm, of in rows.items()
    }
    return Findings(
        "accuracy in -> out of distribution. " + "; ".join(words) + ".",
        {"few_shot": numbers},
        tables,
        {
            "held_out": findings.bar_plot(
                {arm: of["held out"] for arm, of in rows.items()},
                title="Accuracy on held-out combinations",
                ylabel="share",
            ),
            "loss": findings.plot(
                *(arms, "loss"),
                title="Outer loss in training",
                xlabel="outer step",
                ylabel="query loss",
                scale=_steps_between(arms),
            ),
        },
    )


def _others(arms: Arms) -> dict[str, dict[str, Interval]]:
    """Accuracy of what is tested beside `in` and `out`: other K, other shots."""
    others = {}
    for arm, cells in arms.items():
        names = [name for name in cells[0]["tests"] if name not in ("in", "out", "decoding")]
        if names:
            others[arm] = {
                name: t_interval(values(cells, "tests", name, "accuracy")) for name in names
            }
    return others


def _order(of_place: Mapping[str, Mapping[str, Interval]]) -> str:
    """Each learner's accuracies, and whether the best hypernetwork leads or trails."""
    told = ", ".join(
        f"{name} {of['in distribution'].mean:.2f} -> {of['held out'].mean:.2f}"
        for name, of in of_place.items()
    )
    held = {name: of["held out"] for name, of in of_place.items()}
    ours = [held[name] for name in held if name in HYPERNETWORKS]
    theirs = [held[name] for name in held if name not in HYPERNETWORKS]
    if not ours or not theirs:
        return told
    best, other = (max(group, key=lambda one: one.mean) for group in (ours, theirs))
    if best.low > other.high:
        return f"{told} (a hypernetwork leads)"
    if best.high < other.low:
        return f"{told} (ANIL or MAML leads)"
    return f"{told} (no clear leader)"


def _paper(
    beside: Mapping[str, Mapping[str, float]] | None, place: str, of_place: Mapping[str, Any]
) -> str:
    if beside is None or place not in beside:
        return ""
    theirs = beside[place]
    return " [paper: " + ", ".join(f"{n} {theirs[n] / 100:.2f}" for n in of_place) + "]"


def _steps_between(arms: Arms) -> float:
    """Outer steps from one measurement to the next."""
    choices = next(iter(arms.values()))[0]["choices"]
    return choices["steps"] / choices["measured"]
