# SPDX-License-Identifier: Apache-2.0
"""The paper's runs are what it says, and a small one of them has its capacity loss measured."""

import dataclasses

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell
from training.recipes.pfo.arms import mujoco
from training.recipes.pfo.presets import (
    PRESETS,
    CapacityFit,
    initial_states,
    measure_with_capacity,
)
from training.recipes.rl.ppo import PPOArm

MUJOCO, ATARI = PRESETS
SMALL = PPOArm(
    choices=dataclasses.replace(mujoco(), rollout=16, minibatch=16, epochs=1),
    environment="Hopper-v5",
    steps=64,
    measured=2,
)


def test_the_papers_runs():
    arms = MUJOCO.experiment(MUJOCO.options).arms
    assert len(arms) == 4 * 3 * 2 * 7
    assert arms["Humanoid/15/PFO last tanh"].choices.feature_beta == 1
    assert arms["Hopper/20/PFO all"].choices.feature_beta == 10
    assert arms["Hopper/20/PFO all"].steps == 5_000_000
    arms = ATARI.experiment(ATARI.options).arms
    assert len(arms) == 6 * 3 * 7
    assert arms["Phoenix/6/none"].choices.epochs == 6
    assert arms["Phoenix/6/none"].environment == "ALE/Phoenix-v5"


def test_an_intervention_that_is_none():
    options = dataclasses.replace(ATARI.options, interventions=("PFO",))
    with pytest.raises(UserError, match=r"--interventions 'PFO'.*expected some of 'none'"):
        ATARI.experiment(options)


def test_capacity_is_measured_on_an_untrained_agents_states(tmp_path):
    fit = CapacityFit(environments=2, steps=16, epochs=2)
    states_N = initial_states(SMALL, 0, fit)
    assert states_N.shape == (32, 1, 1, 12)
    np.testing.assert_array_equal(states_N, initial_states(SMALL, 0, fit))
    [(_, numbers)] = measure_with_capacity([Cell("a", SMALL, 0)], tmp_path, fit=fit)
    for name in ("capacity_actor", "capacity_critic"):
        values = numbers["measured"][name]
        assert len(values) == 2
        assert np.isfinite(values).all()
        assert values[0] != values[1]
