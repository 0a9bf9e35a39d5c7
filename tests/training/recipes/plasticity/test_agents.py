# SPDX-License-Identifier: Apache-2.0
"""Agents with interventions run side by side, are probed, and go on where they were killed."""

import dataclasses

import pytest

from training.recipes.experiment import Cell
from training.recipes.plasticity import agents
from training.recipes.plasticity.agents import AgentArm, train_agents
from training.recipes.plasticity.learner import NUMBER, Choices
from training.recipes.rl.dqn import DQNChoices
from training.recipes.vision.mlp import MLPConfig

pytest.importorskip("gymnax", reason="gymnax is not installed here")
ARM = AgentArm(
    choices=Choices(network=MLPConfig(widths=(16,)), learning_rate=3e-3, reset_head=True),
    dqn=DQNChoices(head=NUMBER, every=8, begin=64, buffer=512, renew=40),
    environment="Catch-bsuite",
    steps=8 * 40 * 3,
    measured=3,
    probe_steps=5,
    probe_rows=32,
)
CELLS = [
    Cell("reset", ARM, 0),
    Cell("L2", dataclasses.replace(ARM, choices=dataclasses.replace(ARM.choices, l2=0.1)), 0),
]


class Killed(Exception):
    pass


def test_killed_and_started_again_it_ends_the_same(tmp_path, monkeypatch):
    whole = [one for _, one in train_agents(CELLS, tmp_path / "whole")]
    assert whole[0]["measured"]["probe"][0] > 0
    assert whole[0]["measured"]["loss"] != whole[1]["measured"]["loss"]
    assert not list((tmp_path / "whole").glob("*"))
    monkeypatch.setattr(agents.Saved.__init__, "__kwdefaults__", {"every": 0.0})
    kept = agents.Saved.keep

    def once(self, state, values, **options):
        kept(self, state, values, **options)
        if len(values["records"]) == 1:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(agents.Saved, "keep", once)
        with pytest.raises(Killed):
            list(train_agents(CELLS, tmp_path / "killed"))
    again = [one for _, one in train_agents(CELLS, tmp_path / "killed")]
    assert [one["measured"] for one in again] == [one["measured"] for one in whole]
