# SPDX-License-Identifier: Apache-2.0
"""A small study runs, with capacity loss, and what its arms are."""

import pytest

from training.recipes.experiment import Cell
from training.recipes.pfo.conclusions import NAMES, conclude_agents
from training.recipes.pfo.minatar_study import MINATAR, measure, minatar_arms
from training.recipes.rl.ppo import PPOChoices
from training.recipes.vision.mlp import MLPConfig

pytest.importorskip("gymnax", reason="gymnax is not installed here")


def test_every_arm():
    assert len(MINATAR.arms) == 2 * (3 + 6)
    assert MINATAR.arms["Asterix/16/PFO all"].choices.epochs == 16


def test_a_small_one(tmp_path):
    network = MLPConfig(widths=(8,))
    choices = PPOChoices(actor=network, critic=network, environments=4, rollout=8, minibatch=16)
    arms = minatar_arms(choices, games=["Catch-bsuite"], epochs=[2], steps=64, measured=2)
    cells = [Cell("annealed", arms["Catch/2/annealed"], 0)]
    numbers = {cell.arm: [one] for cell, one in measure(cells, tmp_path)}
    assert set(numbers["annealed"][0]["measured"]) >= set(NAMES)
    assert numbers["annealed"][0]["measured"]["capacity_critic"][0] > 0
    assert "annealed: return" in conclude_agents(numbers).verdict
