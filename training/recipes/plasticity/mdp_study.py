# SPDX-License-Identifier: Apache-2.0
"""The table of 2303.01486: three MDPs x interventions x {MLP, CNN}, the change of the probe's loss
from before training to after it. Lower is better.

Smaller than the paper's: 5,000 MNIST images (CIFAR-10), ten target updates of 500 steps (100 of
1,000), a probe of 3 targets x 300 steps (10 x 2,000). Layer norm, two-hot and both are networks;
the other interventions are as in the paper, shrink and perturb with 0.8 and 0.2, which it does not
give, like its range of bins and its discount.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from eval.intervals import t_interval
from eval.results import Table
from training.recipes import findings
from training.recipes.experiment import Experiment, Findings
from training.recipes.findings import Arms, as_numbers, shown, values
from training.recipes.plasticity.learner import Choices
from training.recipes.plasticity.mdp import MDPS
from training.recipes.plasticity.td import TDArm, train_td
from training.recipes.rl.heads import Head
from training.recipes.vision.layers import PLAIN, Style
from training.recipes.vision.mlp import CNNConfig, MLPConfig

TWO_HOT = Head(kind="two_hot", bins=51, low=-2.0, high=22.0)
NORMED = Style("layer")
PAPER: Mapping[tuple[str, str], str] = {  # CIFAR-10, regression, over all MDPs
    ("none", "cnn"): ".31 ± .06",
    ("none", "mlp"): ".27 ± .21",
    ("two-hot", "cnn"): ".09 ± .17",
    ("two-hot", "mlp"): ".02 ± .02",
    ("head reset", "cnn"): ".36 ± .32",
    ("head reset", "mlp"): ".10 ± .10",
    ("layer norm", "cnn"): ".24 ± .16",
    ("layer norm", "mlp"): ".25 ± .21",
    ("layer norm, two-hot", "cnn"): "-.00 ± .00",
    ("layer norm, two-hot", "mlp"): ".05 ± .16",
    ("weight decay", "cnn"): ".34 ± .08",
    ("weight decay", "mlp"): ".28 ± .23",
    ("spectral norm", "cnn"): ".41 ± .21",
    ("spectral norm", "mlp"): ".43 ± .23",
    ("shrink and perturb", "cnn"): ".56 ± .20",
    ("shrink and perturb", "mlp"): ".61 ± .07",
}


def mdp_arms(
    arm: TDArm, *, widths: Sequence[int], channels: Sequence[int], dense: int
) -> dict[str, TDArm]:
    """arm: the settings that all share; its own choices do not matter."""
    arms = {}
    for kind, mdp in MDPS.items():
        for network in ("mlp", "cnn"):

            def config(style: Style, network: str = network) -> MLPConfig | CNNConfig:
                if network == "mlp":
                    return MLPConfig(widths=tuple(widths), style=style)
                return CNNConfig(channels=tuple(channels), widths=(dense,), style=style)

            plain = config(PLAIN)
            interventions = {
                "none": Choices(network=plain),
                "two-hot": Choices(network=plain, head=TWO_HOT),
                "head reset": Choices(network=plain, reset_head=True),
                "layer norm": Choices(network=config(NORMED)),
                "layer norm, two-hot": Choices(network=config(NORMED), head=TWO_HOT),
                "weight decay": Choices(network=plain, decay=1e-5),
                "spectral norm": Choices(network=plain, spectral_norm=True),
                "shrink and perturb": Choices(network=plain, shrink=0.8, perturb=0.2),
            }
            for name, choices in interventions.items():
                arms[f"{kind}/{network}/{name}"] = dataclasses.replace(
                    arm, mdp=mdp, choices=choices
                )
    return arms


def conclude_mdps(arms: Arms) -> Findings:
    """The change of the probe's loss of each arm, and over the MDPs beside the paper's."""
    changes = {
        arm: values(cells, "probe_after") - values(cells, "probe_before")
        for arm, cells in arms.items()
    }
    names = list(dict.fromkeys(arm.split("/")[2] for arm in arms))
    networks = list(dict.fromkeys(arm.split("/")[1] for arm in arms))
    kinds = list(dict.fromkeys(arm.split("/")[0] for arm in arms))
    rows, over_all = [], []
    means: dict[str, dict[str, float]] = {network: {} for network in networks}
    for network in networks:
        for name in names:
            cells = [changes[f"{kind}/{network}/{name}"] for kind in kinds]
            rows.append([network, name, *(shown(t_interval(cell)) for cell in cells)])
            mean_S = sum(cells[1:], cells[0]) / len(cells)
            ours = t_interval(mean_S)
            means[network][name] = ours.mean
            over_all.append([network, name, shown(ours), PAPER.get((name, network))])
    words = "; ".join(
        f"{network}: " + ", ".join(f"{name} {mean:+.2f}" for name, mean in of.items())
        for network, of in means.items()
    )
    return Findings(
        f"change of the probe's loss, mean over the MDPs (lower is better). {words}.",
        {"change": {arm: as_numbers(t_interval(change)) for arm, change in changes.items()}},
        [
            Table("Change of the probe's loss by MDP", ("network", "arm", *kinds), rows),
            Table(
                "Mean over the MDPs, beside the paper's (CIFAR-10, regression)",
                ("network", "arm", "here", "paper"),
                over_all,
            ),
        ],
        {
            f"change_{network}": findings.bar_plot(
                {
                    name: t_interval(
                        sum(
                            (changes[f"{kind}/{network}/{name}"] for kind in kinds[1:]),
                            changes[f"{kinds[0]}/{network}/{name}"],
                        )
                        / len(kinds)
                    )
                    for name in names
                },
                title=f"{network.upper()}: change of the probe's loss, mean over three MDPs",
                ylabel="probe loss after less before",
            )
            for network in networks
        },
    )


SHARED = TDArm(choices=Choices(network=MLPConfig()))
TABLE = Experiment(
    name="mdps",
    question="which interventions keep plasticity in Q-learning, on which MDP?",
    cost="65 CPU minutes",
    arms=mdp_arms(SHARED, widths=(128, 128), channels=(8, 16), dense=64),
    measure=train_td,
    conclude=conclude_mdps,
)
