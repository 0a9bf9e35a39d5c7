# SPDX-License-Identifier: Apache-2.0
"""A cell from the copy to its curves, without MiniHack: what a gap's copy knows, what is measured,
and that a run of a method holds it."""

import dataclasses

import numpy as np
import pytest

from eval.dynamic.retention import Weight
from recurrentgemma.errors import UserError
from tests.training.recipes.forgetting.rooms_without_minihack import environments
from training.recipes.experiment import Cell
from training.recipes.forgetting.minihack import Task
from training.recipes.forgetting.minihack_rooms import Rooms
from training.recipes.forgetting.minihack_run import CURVES, HackArm, Scores, base_of, measure_in
from training.recipes.rl.ppo import PPOArm, PPOChoices
from training.recipes.vision.mlp import MLPConfig

NETWORK = MLPConfig(widths=(16,))
ARM = HackArm(
    gap="coverage",
    copied=4,
    stored=4,
    updates=300,
    valued_steps=16,
    valued_updates=10,
    scored=4,
    task=Task(rooms=Rooms(columns=2, side=2), view=7, slip=0.0, limit=16),
    ppo=PPOArm(
        choices=PPOChoices(
            actor=NETWORK,
            critic=NETWORK,
            environments=4,
            rollout=16,
            epochs=2,
            minibatch=32,
            learning_rate=1e-2,
        ),
        environment="rooms",
        steps=64 * 4,
        measured=2,
    ),
)


def test_a_copy_of_far_knows_far_alone():
    base = base_of(ARM, 0, environments)
    scores = Scores(ARM, base, 0, environments)
    of_copy = scores(base.state, 0)
    assert of_copy["from_far"] == 1.0
    assert of_copy["far_likelihood"] > -0.1 > of_copy["close_likelihood"]
    assert of_copy["far_kl"] == pytest.approx(0, abs=1e-6)
    assert base.readable.far_N.all()
    assert not base.stored.far_N.all()
    whole = base_of(dataclasses.replace(ARM, gap="cloning", copied=2), 0, environments)
    assert len(whole.readable.far_N) == len(whole.stored.far_N)
    assert scores(whole.state, 0)["close_likelihood"] > -0.1
    with environments(ARM.task, 4, seed=9) as from_start:
        assert scores.success(base.state, from_start, scores.key) == 0.0
        assert scores.success(whole.state, from_start, scores.key) == 1.0


def test_cells_share_a_copy_and_a_strong_hold_keeps_it(tmp_path):
    held = dataclasses.replace(ARM, method="bc", weight=Weight(start=100.0))
    scratch = dataclasses.replace(ARM, gap="scratch")
    cells = [Cell("free", ARM, 0), Cell("held", held, 0), Cell("scratch", scratch, 0)]
    numbers = {cell.arm: of for cell, of in measure_in(cells, tmp_path, make=environments)}
    assert numbers["free"]["before"] == numbers["held"]["before"]
    assert numbers["scratch"]["before"] != numbers["free"]["before"]
    for of_arm in numbers.values():
        assert set(of_arm) == {"before", "conflicts", *CURVES}
        assert of_arm["conflicts"] == 0
        assert all(len(of_arm[name]) == 2 for name in CURVES)
        assert np.isfinite([of_arm[name] for name in CURVES]).all()
    assert numbers["held"]["far_kl"][-1] < 0.1 * numbers["free"]["far_kl"][-1]
    assert list(tmp_path.rglob("*.safetensors")) == []  # of finished runs nothing is kept


def test_no_teacher_holds_a_new_policy():
    with pytest.raises(UserError, match="without a copy to be held to"):
        HackArm(gap="scratch", method="ks", weight=Weight(start=1.0))
