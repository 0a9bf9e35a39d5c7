# SPDX-License-Identifier: Apache-2.0
"""Both papers validate on agents: double DQN and C51 on MinAtar, with the probe on what they have
seen. Which interventions keep an agent plastic, and do they raise its return?

Smaller than the papers': two games of MinAtar (57 of Atari), 200,000 steps, a convolution of 16
channels and a layer of 128.
"""

from collections.abc import Sequence

import numpy as np

from eval.intervals import t_interval
from training.recipes import findings
from training.recipes.experiment import Experiment, Findings
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.plasticity.agents import AgentArm, train_agents
from training.recipes.plasticity.learner import Choices
from training.recipes.rl.dqn import DQNChoices
from training.recipes.rl.heads import Head
from training.recipes.vision.layers import PLAIN, Style
from training.recipes.vision.mlp import CNNConfig

GAMES = ("Breakout-MinAtar", "Asterix-MinAtar")
BINS = Head(kind="two_hot", bins=51, low=-1.0, high=30.0)
RATE = 2.5e-4
LOST = "probe less a fresh network's"
LAST = 0.2  # of a run, whose mean return is its end


def agent_arms(
    *, games: Sequence[str], steps: int, measured: int, channels: int = 16, width: int = 128
) -> dict[str, AgentArm]:
    """Every game x intervention."""
    plain, normed = (
        CNNConfig(channels=(channels,), widths=(width,), style=style)
        for style in (PLAIN, Style("layer"))
    )
    choices = {
        "DQN": Choices(network=plain, learning_rate=RATE),
        "DQN, layer norm": Choices(network=normed, learning_rate=RATE),
        "DQN, L2": Choices(network=plain, learning_rate=RATE, l2=1e-5),
        "DQN, head reset": Choices(network=plain, learning_rate=RATE, reset_head=True),
        "DQN, optimizer reset": Choices(network=plain, learning_rate=RATE, reset_optimizer=True),
        "DQN, two-hot": Choices(network=plain, learning_rate=RATE, head=BINS),
        "C51": Choices(network=plain, learning_rate=RATE, head=BINS),
        "C51, layer norm": Choices(network=normed, learning_rate=RATE, head=BINS),
    }
    return {
        f"{game.split('-')[0]}/{name}": AgentArm(
            choices=one,
            dqn=DQNChoices(head=one.head, projected=name.startswith("C51")),
            environment=game,
            steps=steps,
            measured=measured,
        )
        for game in games
        for name, one in choices.items()
    }


def conclude_agents(arms: Arms) -> Findings:
    """Return and probe at the end of each arm; and whether more plastic arms had better returns."""
    rows, numbers = {}, {}
    for arm, cells in arms.items():
        returns_SM = values(cells, "measured", "return")
        lost_SM = values(cells, "measured", "probe") - values(cells, "measured", "fresh_probe")
        last = max(1, round(LAST * returns_SM.shape[1]))
        rows[arm] = {
            "return": t_interval(returns_SM[:, -last:].mean(1)),
            LOST: t_interval(lost_SM[:, -last:].mean(1)),
            "dead": t_interval(values(cells, "measured", "dead")[:, -1]),
        }
        numbers[arm] = {name: as_numbers(one) for name, one in rows[arm].items()}
    games = list(dict.fromkeys(arm.split("/")[0] for arm in arms))
    orders = {}
    for game in games:
        of = [row for arm, row in rows.items() if arm.startswith(f"{game}/")]
        returns, lost = (
            np.argsort(np.argsort([row[name].mean for row in of])) for name in ("return", LOST)
        )
        orders[game] = float(np.corrcoef(returns, lost)[0, 1]) if len(of) > 2 else float("nan")
    words = "; ".join(
        f"{arm}: return {row['return'].mean:.2f}, probe {row[LOST].mean:+.3f}"
        for arm, row in rows.items()
    )
    order = ", ".join(f"{game} {value:+.2f}" for game, value in orders.items())
    return Findings(
        f"return and lost plasticity at the end. {words}. Rank correlation of the two over arms: "
        f"{order} (negative: the more plastic, the better).",
        {"ends": numbers},
        [findings.interval_table("At the end of training", "arm", rows)],
        {
            f"{name}_{game.lower()}": findings.plot(
                {arm.split("/")[1]: cells for arm, cells in arms.items()
                 if arm.startswith(f"{game}/")},
                *("measured", name),
                title=f"{game}: {label}",
                xlabel="measurement",
                ylabel=label,
            )
            for game in games
            for name, label in (("return", "return of an episode"), ("probe", "loss of the probe"))
        },
    )  # fmt: skip


AGENTS = Experiment(
    name="agents",
    question="which interventions keep DQN and C51 plastic, and do they raise the return?",
    cost="about 4 CPU hours",
    arms=agent_arms(games=GAMES, steps=200_000, measured=20),
    measure_in=train_agents,
    conclude=conclude_agents,
)
