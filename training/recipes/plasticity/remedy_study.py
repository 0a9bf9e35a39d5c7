# SPDX-License-Identifier: Apache-2.0
"""The mechanisms of 2402.18762 on random labels: layer norm x L2, smooth activations, the share of
labels that change, and the rank of the tangent kernel.

Smaller than the paper's: 1,800 MNIST images (CIFAR-10), three layers of 128, 20 tasks of 800 steps
(100 of 50,000), so that L2 must be larger to matter: its pull is rate x steps x coefficient.
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
from training.recipes.vision.layers import Activation, Norm, Style
from training.recipes.vision.mlp import MLPConfig

WIDTHS = (128, 128, 128)
L2 = (0.0, 1e-5, 1e-4)
FRACTIONS = (0.1, 0.3, 1.0)


def remedy_arms(
    stream: Stream, widths: Sequence[int], images: int, measured: int
) -> dict[str, StreamArm]:
    """{none, layer norm} x L2 under ReLU; and under GELU without L2."""

    def arm(norm: Norm, activation: Activation, l2: float) -> StreamArm:
        network = MLPConfig(widths=tuple(widths), style=Style(norm, activation))
        choices = Choices(network=network, l2=l2)
        return StreamArm(
            choices=choices, stream=stream, images=images, measured=measured, points=4, full=True
        )

    names: dict[Norm, str] = {"none": "no norm", "layer": "layer norm"}
    arms = {
        f"{name}, L2 {l2:g}": arm(norm, "relu", l2) for norm, name in names.items() for l2 in L2
    }
    return arms | {f"{name}, GELU": arm(norm, "gelu", 0.0) for norm, name in names.items()}


def conclude_remedies(arms: Arms) -> Findings:
    """Accuracy at the first, middle and last task, units, the kernel's rank."""
    rows, numbers = {}, {}
    for arm, cells in arms.items():
        accuracy_ST = values(cells, "accuracy")
        middle = accuracy_ST.shape[1] // 2
        rows[arm] = {
            "first task": t_interval(accuracy_ST[:, 0]),
            "middle task": t_interval(accuracy_ST[:, middle]),
            "last task": t_interval(accuracy_ST[:, -1]),
            "dead": t_interval(values(cells, "points", "dead")[:, -1]),
            "linearised": t_interval(values(cells, "points", "linearised")[:, -1]),
            "kernel rank": t_interval(values(cells, "panel", "kernel_rank")[:, -1]),
            "weights' norm": t_interval(values(cells, "panel", "weights_norm")[:, -1]),
        }
        numbers[arm] = {name: as_numbers(one) for name, one in rows[arm].items()}
    best = max(rows, key=lambda arm: rows[arm]["last task"].mean)
    worst = min(rows, key=lambda arm: rows[arm]["last task"].mean)
    words = ", ".join(f"{arm} {rows[arm]['last task'].mean:.2f}" for arm in rows)
    return Findings(
        f"accuracy at the last task: {words}. Best {best}, worst {worst}.",
        {"remedies": numbers},
        [findings.interval_table("Layer norm and L2 on random labels", "arm", rows)],
        {
            "accuracy": findings.plot(
                *(arms, "accuracy"),
                title="Random labels: layer norm, L2 and GELU",
                xlabel="task",
                ylabel="accuracy at its end (share of images)",
            ),
            "linearised": findings.plot(
                *(arms, "points", "linearised"),
                title="Linearised units",
                xlabel="measurement (four a task)",
                ylabel="share of hidden units",
            ),
            "kernel_rank": findings.plot(
                *(arms, "panel", "kernel_rank"),
                title="Effective rank of the empirical tangent kernel, 64 images",
                xlabel="task",
                ylabel="effective rank",
            ),
        },
    )


def fraction_arms(
    stream: Stream, widths: Sequence[int], images: int, measured: int
) -> dict[str, StreamArm]:
    """What share of labels is drawn anew, without and with the remedies."""
    arms = {}
    for name, style, l2 in (("none", Style(), 0.0), ("both", Style("layer"), 1e-4)):
        for fraction in FRACTIONS:
            choices = Choices(network=MLPConfig(widths=tuple(widths), style=style), l2=l2)
            arms[f"{fraction:.0%} drawn anew, {name}"] = StreamArm(
                choices=choices,
                stream=Stream(tasks=stream.tasks, steps=stream.steps, fraction=fraction),
                images=images,
                measured=measured,
            )
    return arms


def conclude_fractions(arms: Arms) -> Findings:
    """The accuracy that is lost from the first task to the last, by fraction."""
    rows = {}
    for arm, cells in arms.items():
        accuracy_ST = values(cells, "accuracy")
        rows[arm] = {
            "first task": t_interval(accuracy_ST[:, 0]),
            "last task": t_interval(accuracy_ST[:, -1]),
            "lost": t_interval(accuracy_ST[:, 0] - accuracy_ST[:, -1]),
        }
    lost = [rows[arm]["lost"].mean for arm in rows if arm.endswith("none")]
    grows = bool(np.all(np.diff(lost) > 0))
    words = ", ".join(f"{arm}: {of['lost'].mean:+.2f}" for arm, of in rows.items())
    return Findings(
        f"accuracy lost from the first task to the last: {words}. Without a remedy the harm "
        f"{'grows' if grows else 'does not grow steadily'} with the fraction.",
        {"lost": {arm: as_numbers(of["lost"]) for arm, of in rows.items()}},
        [findings.interval_table("The share of labels that is drawn anew", "arm", rows)],
        {
            "accuracy": findings.plot(
                *(arms, "accuracy"),
                title="A share of the labels drawn anew for each task",
                xlabel="task",
                ylabel="accuracy at its end (share of images)",
            )
        },
    )


STREAM = Stream(tasks=20, steps=800)
REMEDIES = Experiment(
    name="remedies",
    question="do layer norm and L2 together keep what either alone loses?",
    cost="20 CPU minutes",
    arms=remedy_arms(STREAM, WIDTHS, 1800, 600),
    measure=train_streams,
    conclude=conclude_remedies,
)
FRACTION = Experiment(
    name="fractions",
    question="does the harm grow with the share of labels that change?",
    cost="9 CPU minutes",
    arms=fraction_arms(Stream(tasks=15, steps=800), WIDTHS, 1800, 600),
    measure=train_streams,
    conclude=conclude_fractions,
)
