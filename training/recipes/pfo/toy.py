# SPDX-License-Identifier: Apache-2.0
"""Figure 5 of 2405.00662: why the clip of PPO fails where features are collinear.

Two states with one feature each, phi(y) = alpha phi(x); two actions, logits W phi. Minibatches of
one state alternate, x first, and each pushes the first action's ratio up (A = 1) until it is
clipped. A step on x moves y, too:

    d log r_y = alpha (1 - pi(y)) / (1 - pi(x)) d log r_x

so with alpha > 0 what is clipped at y goes on rising through x, and with alpha < 0 x sinks below 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from eval.plots import Line, lines
from eval.results import Table
from training.recipes.experiment import Cell, Experiment, Findings

WEIGHTS = (0.5152632, -0.44137824)
PHI = 0.11631361
"""What the authors' seed draws: the two weights, and the feature of x."""
EXPECTED = {3.0: (1.103, 1.253), -2.0: (0.941, 1.141)}
"""The final ratios of the authors' code, by alpha."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """learning_rate: of SGD."""

    alpha: float
    clip: float = 0.1
    learning_rate: float = 1.5
    minibatches: int = 20


def ratios(toy: Toy) -> np.ndarray:
    """pi / pi_old of the first action at x and at y, before and after each minibatch:
    [minibatches + 1, 2], float64."""
    phi_2 = PHI * np.array([1.0, toy.alpha])
    w_2 = np.array(WEIGHTS)
    old_2 = _probability(w_2, phi_2)
    history = [np.ones(2)]
    for number in range(toy.minibatches):
        state = number % 2
        p = _probability(w_2, phi_2)[state]
        if p / old_2[state] <= 1 + toy.clip:  # else there is no gradient
            # of p with respect to the logits, by the chain rule to the weights
            w_2 = w_2 + toy.learning_rate * p * (1 - p) * np.array([1, -1]) * (
                phi_2[state] / old_2[state]
            )
        history.append(_probability(w_2, phi_2) / old_2)
    return np.array(history)


def _probability(w_2: np.ndarray, phi_2: np.ndarray) -> np.ndarray:
    """Of the first action, at each feature."""
    return 1 / (1 + np.exp(-(w_2[0] - w_2[1]) * phi_2))


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The ratios of each cell; there is nothing random in it."""
    for cell in cells:
        yield cell, {"ratios": ratios(cell.choices).tolist()}


def conclude(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> Findings:
    """The final ratios beside the authors'."""
    curves, rows, final = [], [], {}
    for arm, (cell, *_) in arms.items():
        history = np.asarray(cell["ratios"])
        alpha = cell["choices"]["alpha"]
        final[arm] = history[-1].tolist()
        rows.append([arm, *history[-1], *EXPECTED.get(alpha, (None, None))])
        steps = range(len(history))
        curves += [Line(f"{arm}, {of}", steps, history[:, i].tolist()) for i, of in enumerate("xy")]
    words = "; ".join(f"{arm}: x {x:.3f}, y {y:.3f}" for arm, (x, y) in final.items())
    ends = np.array(list(final.values()))
    clip = 1 + next(iter(arms.values()))[0]["choices"]["clip"]
    beyond, below = int((ends > clip).sum()), int((ends < 1).sum())
    return Findings(
        f"final ratios. {words}. Beyond the clip end {beyond} of {2 * len(final)}, below 1, where "
        f"a positive advantage should not lead, {below}.",
        {"final": final},
        [Table("Final ratios", ("arm", "x", "y", "x, authors' code", "y, authors' code"), rows)],
        {
            "ratios": partial(
                lines,
                curves=curves,
                title="Ratios of the first action, clipped at 1.1",
                xlabel="minibatch",
                ylabel="pi / pi_old",
            )
        },
    )


TOY = Experiment(
    name="toy",
    question="does the clip hold where features are collinear?",
    cost="a second",
    arms={f"alpha {alpha:g}": Toy(alpha=alpha) for alpha in EXPECTED},
    measure=measure,
    conclude=conclude,
    seeds=1,
)
