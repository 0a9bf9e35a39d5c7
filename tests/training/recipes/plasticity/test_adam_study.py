# SPDX-License-Identifier: Apache-2.0
"""The arms of the study of Adam, and what it concludes of numbers that are known."""

from training.recipes.plasticity.adam_study import ADAM, conclude_adam
from training.recipes.side_by_side import split


def test_arms_differ_in_what_they_say():
    numbers = {name: arm.choices for name, arm in ADAM.arms.items()}
    assert (numbers["eps 1e-3 outside"].eps, numbers["eps 1e-3 outside"].eps_root) == (1e-3, 0)
    inside = numbers["eps 1e-3 inside"]
    assert (inside.eps_root, inside.b2) == (1e-3, 0.9)
    assert numbers["layer norm"].network.style.norm == "layer"
    assert len({split(arm)[0] for arm in ADAM.arms.values()}) == 2  # programs


def test_what_is_lost_is_said():
    def cells(*accuracies):
        return [{"accuracy": list(one), "points": {"dead_first": [0.0, 0.5]}} for one in accuracies]

    arms = {
        "default": cells((0.9, 0.2), (0.8, 0.1), (0.9, 0.2)),
        "layer norm": cells((0.9, 0.9), (0.9, 0.95), (0.95, 0.9)),
    }
    concluded = conclude_adam(arms)
    assert "default: 0.87 -> 0.87 -> 0.17, 50% dead, plasticity lost" in concluded.verdict
    assert "layer norm: 0.92 -> 0.93 -> 0.92, 50% dead." in concluded.verdict
    assert set(concluded.plots) == {"accuracy", "dead"}
