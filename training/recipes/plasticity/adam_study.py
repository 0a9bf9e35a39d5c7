# SPDX-License-Identifier: Apache-2.0
"""Figure 1 of 2303.01486: Adam on random labels of 5,000 MNIST images that are drawn anew.

Smaller than the paper's: two layers of 256 (the paper: 1,024), batches of 128 (512), six tasks of
1,500 steps (about 90,000 steps in all).
"""

from collections.abc import Sequence

import numpy as np

from eval.intervals import t_interval
from training.recipes import findings
from training.recipes.experiment import Experiment, Findings
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.plasticity.learner import Choices
from training.recipes.plasticity.streams import Stream
from training.recipes.plasticity.train import StreamArm, train_streams
from training.recipes.vision.layers import Style
from training.recipes.vision.mlp import MLPConfig

INSIDE = 1e-3  # a floor of 0.0316 under Adam's denominator, when it stands under the root


def adam_arms(
    stream: Stream, widths: Sequence[int], images: int, measured: int
) -> dict[str, StreamArm]:
    """Default Adam; the tuned one with epsilon in either place; layer norm."""
    plain = MLPConfig(widths=tuple(widths))
    normed = MLPConfig(widths=tuple(widths), style=Style("layer"))
    choices = {
        "default": Choices(network=plain),
        "eps 1e-3 outside": Choices(network=plain, b2=0.9, eps=1e-3),
        "eps 1e-3 inside": Choices(network=plain, b2=0.9, eps=1e-9, eps_root=INSIDE),
        "eps 0.0316 outside": Choices(network=plain, eps=INSIDE**0.5),
        "layer norm": Choices(network=normed),
    }
    return {
        name: StreamArm(choices=one, stream=stream, images=images, measured=measured)
        for name, one in choices.items()
    }


def conclude_adam(arms: Arms) -> Findings:
    """Accuracy at the first and the last task, and the dead units of the first layer at the end."""
    rows, numbers, words = {}, {}, []
    for arm, cells in arms.items():
        accuracy_ST = values(cells, "accuracy")
        dead_SM = values(cells, "points", "dead_first")
        rows[arm] = {
            "first task": t_interval(accuracy_ST[:, 0]),
            "last task": t_interval(accuracy_ST[:, -1]),
            "best task": t_interval(accuracy_ST.max(1)),
            "dead in layer 1": t_interval(dead_SM[:, -1]),
        }
        numbers[arm] = {
            "accuracy": accuracy_ST.mean(0).tolist(),
            **{name: as_numbers(one) for name, one in rows[arm].items()},
        }
        lost = rows[arm]["last task"].high < rows[arm]["best task"].low
        words.append(
            f"{arm}: {np.mean(accuracy_ST[:, 0]):.2f} -> {np.mean(accuracy_ST.max(1)):.2f} -> "
            f"{np.mean(accuracy_ST[:, -1]):.2f}, "
            f"{np.mean(dead_SM[:, -1]):.0%} dead{', plasticity lost' if lost else ''}"
        )
    return Findings(
        "accuracy on fresh random labels, first -> best -> last task. " + "; ".join(words) + ".",
        {"adam": numbers},
        [findings.interval_table("Accuracy on random labels", "arm", rows)],
        {
            "accuracy": findings.plot(
                *(arms, "accuracy"),
                title="5,000 MNIST images, random labels drawn anew for each task",
                xlabel="task",
                ylabel="accuracy at its end (share of images)",
            ),
            "dead": findings.plot(
                *(arms, "points", "dead_first"),
                title="Dead units of the first layer",
                xlabel="measurement (two a task)",
                ylabel="share of units",
            ),
        },
    )


ADAM = Experiment(
    name="adam",
    question="does Adam's small epsilon cost plasticity, and what keeps it?",
    cost="10 CPU minutes",
    arms=adam_arms(Stream(tasks=6, steps=1500), (256, 256), 5000, 1000),
    measure=train_streams,
    conclude=conclude_adam,
)
