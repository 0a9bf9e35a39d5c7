# SPDX-License-Identifier: Apache-2.0
"""Stages, their ends and rewards, starts in FAR, and going on in the middle of an episode: on
points, and on Meta-World where it is installed."""

import importlib.util
import sys

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.forgetting.point_tasks import NAMES, PointTask
from training.recipes.forgetting.robots import (
    LEAST_STD,
    STAGES,
    RoboticSequence,
    metaworld_task,
    scale_of,
)

needs_metaworld = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None,
    reason="Meta-World is not installed here: pip install 'griffin-lm[robotics]'",
)


def points(count: int = 3, **options) -> RoboticSequence:
    return RoboticSequence([PointTask(name) for name in NAMES[:count]], seed=0, **options)


def led_by_the_expert(sequence: RoboticSequence) -> list:
    """The steps of one stage."""
    steps = [sequence.step(sequence.expert())]
    while not steps[-1].terminated:
        steps.append(sequence.step(sequence.expert()))
    return steps


def test_a_whole_episode():
    tasks = [PointTask(name) for name in NAMES[:3]]
    with RoboticSequence(tasks, seed=0, limit=10) as sequence:
        assert sequence.policy.low == (-1.0,)
        observation = sequence.begin()
        assert (observation.shape, observation.dtype) == (sequence.observation_shape, np.float32)
        for stage in range(3):
            assert observation[0, 0, :2].tolist() == [stage, 0]
            *before, last = led_by_the_expert(sequence)
            assert not any(one.terminated or one.success for one in before)
            assert all(one.solved == stage for one in before)
            assert (last.success, last.solved) == (True, stage + 1)
            assert last.observation[0, 0, 1] == pytest.approx((len(before) + 1) / 10)
            goal, place = 0.0, last.observation[0, 0, 2]
            # the steps before this one are what is gone of T
            assert last.reward == pytest.approx(
                1.5 * 10 * (1 - abs(place - goal)) * (10 - len(before)), rel=1e-5
            )
            assert last.following == (stage + 1 if stage < 2 else None)
            observation = sequence.begin(last.following or 0)
    assert all(task.closed for task in tasks)


def test_time_ends_a_stage_and_the_episode():
    with points(limit=4) as sequence:
        sequence.begin(1)
        steps = [sequence.step(np.zeros(1)) for _ in range(4)]
    assert [one.terminated for one in steps] == [False, False, False, True]
    last = steps[-1]
    assert (last.success, last.following, last.solved) == (False, None, 1)
    assert last.reward < 10  # no bonus


def test_a_start_in_far_has_its_own_seed_or_the_sequences_next():
    sequence = points()
    first, again, other = (sequence.begin(2, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (sequence.begin(2) != sequence.begin(2)).any()
    with pytest.raises(UserError, match="stage 3: expected 0 to 2"):
        sequence.begin(3)


def goes_on(make) -> None:
    """A restored sequence gives what the first gives, in this episode and the next."""
    random = np.random.default_rng(0)
    first, second = make(), make()
    first.begin(1)
    actions = random.uniform(-0.1, 0.1, (12, first.tasks[0].dimensions))
    for action in actions[:5]:
        first.step(action)
    kept = first.snapshot()
    steps = [first.step(action) for action in actions[5:]]
    after = first.begin()
    second.begin(2)
    second.step(actions[0])
    second.restore(kept)
    for one, action in zip(steps, actions[5:], strict=True):
        again = second.step(action)
        np.testing.assert_array_equal(again.observation, one.observation)
        assert again.reward == one.reward
    np.testing.assert_array_equal(second.begin(), after)


def test_it_goes_on_where_a_snapshot_was_taken():
    goes_on(points)


def test_observations_are_standardised_alike_for_all_stages():
    tasks = [PointTask(name) for name in NAMES[:2]]
    mean_D, std_D = scale_of(tasks, episodes=200)
    assert mean_D == pytest.approx([0, 0], abs=0.06)
    assert std_D[1] == LEAST_STD  # the goal never moves
    assert 0.2 < std_D[0] < 0.7
    sequence = RoboticSequence(tasks, seed=0, scale=(mean_D, std_D))
    observation = sequence.begin(1)
    place = (tasks[1].place - mean_D[0]) / std_D[0]
    assert observation[0, 0, 2] == pytest.approx(place, rel=1e-5)
    tasks[1].place = 1e6
    sequence.step(np.zeros(1))
    assert sequence.observation[0, 0, 2] == 10


def test_tasks_of_two_kinds():
    other = PointTask("ahead")
    other.numbers = 3
    with pytest.raises(UserError, match="expected one kind"):
        RoboticSequence([PointTask("ahead"), other], seed=0)


def test_without_metaworld_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(UserError, match=r"hammer-v3: .* pip install 'griffin-lm\[robotics\]'"):
        metaworld_task("hammer-v3")


@needs_metaworld
def test_the_experts_of_metaworld_solve_every_stage():
    with RoboticSequence([metaworld_task(name) for name in STAGES], seed=0) as sequence:
        assert sequence.observation_shape == (1, 1, 41)
        for stage in range(len(STAGES)):
            sequence.begin(stage, seed=stage)
            *before, last = led_by_the_expert(sequence)
            assert last.success
            assert last.reward > 20 > max(one.reward for one in before)


@needs_metaworld
def test_metaworld_goes_on_where_a_snapshot_was_taken():
    goes_on(lambda: RoboticSequence([metaworld_task(name) for name in STAGES[1:]], seed=0))


@needs_metaworld
def test_a_task_that_is_not_there():
    with pytest.raises(UserError, match=r"'hamer-v3' is no task of Meta-World.*hammer-v3"):
        metaworld_task("hamer-v3")
