# SPDX-License-Identifier: Apache-2.0
"""The arms of the study on agents, and what it concludes of numbers that are known."""

from training.recipes.plasticity.agent_study import AGENTS, conclude_agents
from training.recipes.side_by_side import split


def test_arms_differ_in_what_they_say():
    arms = AGENTS.arms
    assert len(arms) == 16
    assert arms["Breakout/C51, layer norm"].dqn.projected
    assert arms["Breakout/C51, layer norm"].choices.network.style.norm == "layer"
    assert not arms["Asterix/DQN, two-hot"].dqn.projected
    assert arms["Asterix/DQN, L2"].choices.l2 == 1e-5
    plain, l2 = (split(arms[f"Asterix/DQN{name}"])[0] for name in ("", ", L2"))
    assert plain == l2  # one program


def test_whether_the_plastic_are_the_better():
    def cells(returns, probe):
        curve = {"return": [0.0] * 9 + [returns], "probe": [probe] * 10, "fresh_probe": [0.5] * 10}
        return [{"measured": {**curve, "dead": [0.1] * 10}}] * 2

    arms = {f"Breakout/{name}": cells(*numbers)
            for name, numbers in {"a": (1, 0.9), "b": (2, 0.7), "c": (3, 0.5)}.items()}  # fmt: skip
    concluded = conclude_agents(arms)
    assert "Breakout/a: return 0.50, probe +0.400" in concluded.verdict
    assert "Breakout -1.00" in concluded.verdict
