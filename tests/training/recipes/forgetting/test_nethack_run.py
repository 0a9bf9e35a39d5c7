# SPDX-License-Identifier: Apache-2.0
"""A cell from the stored games to its curves, in a dungeon without NetHack."""

import dataclasses

import numpy as np
import pytest

from eval.dynamic.retention import Weight
from recurrentgemma.errors import UserError
from tests.training.recipes.forgetting.dungeon_without_nethack import games
from tests.training.recipes.forgetting.test_nethack_teacher import TINY
from training.recipes.experiment import Cell
from training.recipes.forgetting.nethack import Opening
from training.recipes.forgetting.nethack_run import HackRun, deep_openings, measure_in
from training.recipes.rl.host_loop import Schedule
from training.recipes.rl.recurrent_host import MemoryChoices

ARM = HackRun(
    network=TINY,
    choices=MemoryChoices(environments=4, rollout=8, rows=4, learning_rate=3e-3),
    schedule=Schedule(environments=4, rollout=8, steps=128, measured=2),
    stored=16,
    copied=60,
    copied_rows=8,
    critic_steps=32,
    openings=2,
    opening_depth=2,
    opening_steps=6,
)


def test_openings_lead_deep():
    openings = deep_openings(ARM, 3, games)
    assert len(openings) == 2
    assert isinstance(openings[0], Opening)
    with games(ARM.game, 2, seed=0, openings=openings) as two:
        two.reset()
        assert [two.depth(row) for row in range(2)] == [2, 2]


@pytest.mark.slow
def test_cells_share_a_copy(tmp_path):
    held = dataclasses.replace(
        ARM, begins="scratch", method="ks", weight=Weight(start=50.0), critic_steps=0
    )
    cells = [Cell("free", ARM, 0), Cell("held", held, 0)]
    numbers = {cell.arm: of for cell, of in measure_in(cells, tmp_path, make=games)}
    free, from_scratch = numbers["free"], numbers["held"]
    assert free["before"]["far_likelihood"] > from_scratch["before"]["far_likelihood"]
    for of_arm in numbers.values():
        names = ("loss", "far", "far_likelihood", "close_likelihood", "far_gain", "value_loss")
        curves = [of_arm["curves"][name] for name in names]
        assert np.isfinite(np.array(curves, float)).all()
        assert np.shape(curves) == (6, 2)
    kl = from_scratch["curves"]["held_loss"]
    assert kl[1] < kl[0]
    assert "held_loss" not in free["curves"]
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_of_another_size():
    with pytest.raises(UserError, match="the schedule has 4 environments and rollouts of 8"):
        dataclasses.replace(ARM, choices=MemoryChoices())
