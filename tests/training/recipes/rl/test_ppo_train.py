# SPDX-License-Identifier: Apache-2.0
"""Runs learn, seeds differ, arms run side by side, and a run that was killed goes on to the bit."""

import dataclasses

import pytest

from training.recipes.experiment import Cell
from training.recipes.rl import ppo_train, saved
from training.recipes.rl.ppo import PPOArm, PPOChoices
from training.recipes.rl.ppo_train import train_ppo
from training.recipes.vision.mlp import MLPConfig

pytest.importorskip("gymnax", reason="gymnax is not installed here")
NETWORK = MLPConfig(widths=(16,))
ARM = PPOArm(
    choices=PPOChoices(
        actor=NETWORK,
        critic=NETWORK,
        rollout=32,
        minibatch=64,
        clip=0.2,
        learning_rate=5e-3,
        truncation_ends=False,
    ),
    environment="CartPole-v1",
    steps=256 * 24,
    measured=6,
)
CELLS = [
    Cell("fast", ARM, 0),
    Cell("fast", ARM, 1),
    Cell("slow", dataclasses.replace(ARM, choices=dataclasses.replace(ARM.choices, clip=0.01)), 0),
]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    numbers = [one for _, one in train_ppo(CELLS, folder)]
    assert not list(folder.iterdir())  # nothing is left of a finished run
    return numbers


def test_it_learns_and_seeds_differ(whole):
    first, second, slow = (one["measured"]["return"] for one in whole)
    assert first[-1] > 2 * first[0]
    assert first != second
    assert first[-1] > slow[-1]  # its clip is a twentieth
    assert whole[0]["steps"] == 256 * 24


def test_killed_and_started_again_it_ends_the_same(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "KEPT_EVERY", 0.0)
    monkeypatch.setattr(ppo_train.Saved.__init__, "__kwdefaults__", {"every": 0.0})
    kept = ppo_train.Saved.keep

    def once(self, state, values, **options):
        kept(self, state, values, **options)
        if len(values["records"]) == 3:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(ppo_train.Saved, "keep", once)
        with pytest.raises(Killed):
            list(train_ppo(CELLS, tmp_path))
    assert list(tmp_path.iterdir())
    again = [one for _, one in train_ppo(CELLS, tmp_path)]
    assert [one["measured"] for one in again] == [one["measured"] for one in whole]
