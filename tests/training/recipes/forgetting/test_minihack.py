# SPDX-License-Identifier: Apache-2.0
"""What is earned and counted in the rooms, without MiniHack; and that MiniHack's rooms are the same
step by step, where it is installed."""

import sys

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.forgetting.rooms_without_minihack import environments
from training.recipes.forgetting.minihack import Task, minihack_environments
from training.recipes.forgetting.minihack_rooms import Rooms
from training.recipes.rl.distributions import Categorical

SMALL = Rooms(columns=2, side=2)


@pytest.mark.parametrize("from_far", [False, True])
def test_the_experts_way_earns_all(from_far):
    task = Task(rooms=SMALL, slip=0.0, from_far=from_far)
    with environments(task, 2, seed=0) as walkers:
        observation_BCCP = walkers.reset()
        assert observation_BCCP.shape == (2, *walkers.observation_shape)
        assert walkers.policy == Categorical(actions=4)
        rewards_B, way = np.zeros(2), SMALL.distance_HW[task.start]
        for number in range(1, way + 1):
            assert walkers.far().all() == (SMALL.far_HW[tuple(walkers.place_B2[0])])
            stepped = walkers.step(walkers.expert())
            rewards_B += stepped.reward
            assert stepped.terminated.all() == (number == way)
        np.testing.assert_allclose(rewards_B, way / SMALL.distance_HW[SMALL.start], rtol=1e-5)
        # begun anew: what is seen is the start, and the last is empty
        np.testing.assert_array_equal(stepped.observation, observation_BCCP)
        assert not stepped.final_observation.any()
        visits = walkers.visits()
    assert (visits.episodes, visits.reached_far, visits.solved) == (2, 2, 2)
    far_steps = SMALL.distance_HW[SMALL.far_start]
    assert visits.far_steps == 2 * (far_steps if from_far else far_steps + 2)  # and the gap
    assert visits.shares()["success"] == 1.0
    assert np.isnan(walkers.visits().shares()["success"])  # counted once


def test_a_step_is_paid_once_and_the_limit_cuts_off():
    task = Task(rooms=SMALL, slip=0.0, limit=20)
    walkers = environments(task, 1, seed=0)
    start = walkers.reset()
    steps = [walkers.step(np.array([1 if number % 2 == 0 else 3])) for number in range(20)]
    way = SMALL.distance_HW[SMALL.start]
    # to and fro: the first step leads nearer, and no other one is paid
    assert [round(float(one.reward[0]) * way, 3) for one in steps] == [1.0] + [0.0] * 19
    assert [bool(one.truncated[0]) for one in steps] == [False] * 19 + [True]
    np.testing.assert_array_equal(steps[-1].observation, start)
    assert steps[-1].final_observation.any()
    assert walkers.visits().shares() == {"success": 0.0, "reached_far": 0.0, "far": 0.0}
    again = walkers.step(np.array([1]))  # a new episode is paid anew
    assert float(again.reward[0]) * way == pytest.approx(1)


def test_slips_are_the_seeds():
    def places(seed, slip):
        walkers = environments(Task(rooms=SMALL, slip=slip), 4, seed=seed)
        walkers.reset()
        met = []
        for _ in range(12):
            walkers.step(walkers.expert())
            met.append(walkers.place_B2.copy())
        return np.stack(met)

    np.testing.assert_array_equal(places(0, 0.5), places(0, 0.5))
    assert (places(0, 0.5) != places(1, 0.5)).any()
    assert (places(0, 0.0) == places(1, 0.0)).all()


def test_after_restore_episodes_begin_anew():
    walkers = environments(Task(rooms=SMALL, slip=0.0), 1, seed=0)
    walkers.reset()
    kept = walkers.snapshot()
    walkers.step(walkers.expert())
    walkers.restore(kept)
    assert tuple(walkers.place_B2[0]) == SMALL.start


@pytest.mark.parametrize("choices", [{"view": 4}, {"slip": 1.5}, {"limit": 0}])
def test_a_task_that_is_none(choices):
    with pytest.raises(UserError, match="expected an odd side"):
        Task(**choices)


@pytest.mark.parametrize("package", ["minihack", "nle", "gymnasium"])
def test_the_extra_is_named_where_a_package_is_missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"MiniHack is not installed .*griffin-lm\[nethack\]"):
        minihack_environments(Task(), 1, seed=0)


@pytest.mark.parametrize("from_far", [False, True])
def test_minihack_steps_as_the_map_says(from_far):
    pytest.importorskip("minihack", reason="minihack is not installed here: griffin-lm[nethack]")
    task = Task(slip=0.2, limit=60, from_far=from_far)
    random = np.random.default_rng(1)
    with minihack_environments(task, 4, seed=0) as real, environments(task, 4, seed=0) as walkers:
        np.testing.assert_array_equal(real.reset(), walkers.reset())
        for _ in range(300):
            random_B = random.integers(0, 4, 4)
            action_B = np.where(random.random(4) < 0.3, random_B, real.expert())
            for theirs, ours in zip(real.step(action_B), walkers.step(action_B), strict=True):
                np.testing.assert_array_equal(theirs, ours)
        counted = real.visits()
        assert counted == walkers.visits()
        assert counted.episodes > counted.solved > 0
