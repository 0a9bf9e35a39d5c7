# SPDX-License-Identifier: Apache-2.0
"""Target scale (2402.18762): regression on targets with an offset, then on targets of mean 0.

Smaller than the paper's: MNIST, two layers of 256; one task of each kind, 2,500 steps each.
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
from training.recipes.rl.heads import Head
from training.recipes.vision.layers import Style
from training.recipes.vision.mlp import MLPConfig

OFFSETS = (0.0, 8.0, 32.0, 128.0)
BINS = 101


def offset_arms(
    steps: int, widths: Sequence[int], images: int, measured: int, bins: int = BINS
) -> dict[str, StreamArm]:
    """Offsets x {regression, layer norm, two-hot}. The bins of a head reach from -2 to 2 beyond the
    offset: they are what a user who knows the targets' range would choose."""
    plain, normed = (MLPConfig(widths=tuple(widths), style=Style(n)) for n in ("none", "layer"))
    arms = {}
    for offset in OFFSETS:
        two_hot = Head(kind="two_hot", bins=bins, low=-2.0, high=2.0 + offset)
        choices = {
            "regression": Choices(network=plain),
            "layer norm": Choices(network=normed),
            "two-hot": Choices(network=plain, head=two_hot),
        }
        for name, one in choices.items():
            stream = Stream(kind="targets", tasks=2, steps=steps, offset=offset, last_offset=False)
            arms[f"{name}, offset {offset:g}"] = StreamArm(
                choices=one, stream=stream, images=images, measured=measured, full=True
            )
    return arms


def conclude_offsets(arms: Arms) -> Findings:
    """The squared error at the end of the task of mean 0, and the features' conditioning."""
    rows, dose = {}, {}
    for arm, cells in arms.items():
        rows[arm] = {
            "error with the offset": t_interval(values(cells, "error")[:, 0]),
            "error after it, mean 0": t_interval(values(cells, "error")[:, -1]),
            "sigma 1 / sigma 6": t_interval(values(cells, "panel", "leading")[:, 0]),
            "kernel rank": t_interval(values(cells, "panel", "kernel_rank")[:, 0]),
        }
        kind = arm.split(",")[0]
        dose.setdefault(kind, []).append(rows[arm]["error after it, mean 0"])
    steady = {
        kind: bool(np.all(np.diff([one.mean for one in errors]) > 0))
        for kind, errors in dose.items()
    }
    words = "; ".join(
        f"{kind}: {', '.join(f'{one.mean:.3f}' for one in errors)}"
        f"{' (grows with the offset)' if steady[kind] else ''}"
        for kind, errors in dose.items()
    )
    return Findings(
        f"squared error on targets of mean 0 after offsets of {', '.join(map(str, OFFSETS))}: "
        f"{words}.",
        {"errors": {arm: as_numbers(of["error after it, mean 0"]) for arm, of in rows.items()}},
        [findings.interval_table("Targets with an offset, then of mean 0", "arm", rows)],
        {
            "error": findings.bar_plot(
                {arm: of["error after it, mean 0"] for arm, of in rows.items()},
                title="Regression on targets of mean 0 after targets with an offset",
                ylabel="squared error",
            )
        },
    )


OFFSET = Experiment(
    name="offsets",
    question="does a large offset of targets cost plasticity, and does a two-hot head keep it?",
    cost="15 CPU minutes",
    arms=offset_arms(2500, (256, 256), 2000, 1000),
    measure=train_streams,
    conclude=conclude_offsets,
)
