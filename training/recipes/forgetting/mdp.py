# SPDX-License-Identifier: Apache-2.0
"""The two-state MDP of 2402.02868 (appendix A.1): one parameter is shared by a state that is met
first (CLOSE) and one that is met later (FAR), and following the gradient from a good policy for FAR
ends in a poor one for both.

At s0 the policy goes on to s1 with probability theta (reward 1, else r0), at s1 it stays with
f(theta) (reward 1) and falls back to s0 with 1 - f (reward r1):

    v0 = (theta + r0 (1 - theta)(1 - g f) + g theta r1 (1 - f)) / ((1 - g)(1 - g f + g theta))

The text prints two functions f, the optima (0.111, 2.22) of the coverage gap and (0.08, 9.93) of
the cloning gap, and a best value of 10; it prints neither r0 nor r1, the discount g, nor epsilon.
g = 0.9 follows from the best value, and the others were solved for. They fit if the two functions
change places: f = 2 |theta - 1/2| gives the numbers of coverage, and the family with epsilon those
of cloning. Under the printed assignment a small step away from the best policy does not diverge.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from eval.plots import Line, lines
from eval.results import Table
from training.recipes.experiment import Cell, Experiment, Findings

DISCOUNT = 0.9
GRID = 1_000_001  # points of [0, 1]
PRINTED = {"coverage": (0.111, 2.222), "cloning": (0.080, 9.929)}
"""(theta, value) of the paper, to the digits that were solved for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStates:
    """f: `fold` is 2 |theta - 1/2|; `hinge` falls by epsilon up to 1 - epsilon / 2 and then rises
    to 1."""

    f: Literal["fold", "hinge"]
    r0: float
    r1: float
    epsilon: float = 0.05

    def stays(self, theta: np.ndarray) -> np.ndarray:
        """f(theta)."""
        if self.f == "fold":
            return 2 * np.abs(theta - 0.5)
        knee = 1 - self.epsilon / 2
        return np.where(theta <= knee, 1 - self.epsilon * theta / knee, 2 * theta - 1)

    def value(self, theta: np.ndarray) -> np.ndarray:
        """v0, of any number of policies."""
        f, g = self.stays(theta), DISCOUNT
        gained = theta + self.r0 * (1 - theta) * (1 - g * f) + g * theta * self.r1 * (1 - f)
        return gained / ((1 - g) * (1 - g * f + g * theta))


def stationary(mdp: TwoStates) -> dict[str, Any]:
    """Where gradient ascent on theta in [0, 1] ends, and the valleys between: `optima` and
    `valleys`, [theta, value] each."""
    theta = np.linspace(0, 1, GRID)
    value = mdp.value(theta)
    slope = np.sign(np.diff(value))
    turns = np.flatnonzero(slope[:-1] * slope[1:] < 0) + 1
    optima = [i for i in turns if slope[i - 1] > 0]
    optima += [0] if slope[0] < 0 else []
    optima += [GRID - 1] if slope[-1] > 0 else []
    valleys = [i for i in turns if slope[i - 1] < 0]
    return {
        name: [[float(theta[i]), float(value[i])] for i in sorted(points)]
        for name, points in (("optima", optima), ("valleys", valleys))
    }


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Nothing in it is random."""
    for cell in cells:
        yield cell, stationary(cell.choices)


def conclude(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> Findings:
    """The optimum that is not the best one, beside the paper's; the value, and its slope, by
    theta."""
    rows, words, portraits = [], [], {}
    theta = np.linspace(0, 1, 201)
    for arm, (cell, *_) in arms.items():
        gap = arm.split(",")[0]
        best = max(value for _, value in cell["optima"])
        traps = [point for point in cell["optima"] if point[1] < best - 1e-6]
        trap = traps[0] if traps else None
        valley = cell["valleys"][0][0] if cell["valleys"] else None
        fits = trap is not None and bool(np.allclose(trap, PRINTED[gap], atol=1e-3))
        rows.append([arm, *(trap or (None, None)), valley, best, *PRINTED[gap], fits])
        words.append(f"{arm}: {_told(trap)}{'' if fits else ', which is not the paper’s'}")
        mdp = TwoStates(**cell["choices"])
        portraits[arm] = (mdp.value(theta), np.gradient(mdp.value(theta), theta))
    columns = ("arm", "trap", "value", "valley", "best value", "paper's trap", "value", "fits")
    curves = {
        kind: [Line(arm, theta.tolist(), both[number].tolist()) for arm, both in portraits.items()]
        for number, kind in enumerate(("value", "slope"))
    }
    return Findings(
        "; ".join(words) + ".",
        {"printed": PRINTED},
        [Table("Where gradient ascent is caught", columns, rows)],
        {
            "value": partial(
                lines,
                curves=curves["value"],
                title="Value of the first state; ascent ends in the nearest peak",
                xlabel="theta",
                ylabel="v0",
            ),
            "phase": partial(
                lines,
                curves=curves["slope"],
                title="Phase portrait: where theta moves to, by where it is",
                xlabel="theta",
                ylabel="d v0 / d theta",
            ),
        },
    )


def _told(trap: Sequence[float] | None) -> str:
    if trap is None:
        return "no trap"
    theta, value = trap
    return f"a trap at theta {theta:.3f} of value {value:.3f}"


MDP = Experiment(
    name="mdp",
    question="where does the gradient lead from a good policy for FAR, and by which formula?",
    cost="a second",
    arms={
        "coverage, fold": TwoStates(f="fold", r0=0.0, r1=-1.0),
        "cloning, hinge": TwoStates(f="hinge", r0=0.99, r1=0.0),
        "coverage, hinge as printed": TwoStates(f="hinge", r0=0.0, r1=-1.0),
        "cloning, fold as printed": TwoStates(f="fold", r0=0.99, r1=0.0),
    },
    measure=measure,
    conclude=conclude,
    seeds=1,
)
