# SPDX-License-Identifier: Apache-2.0
"""The loop's records, what an agent is given of a rollout, and going on where it was stopped."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.rl.corridors import LENGTH, Corridors
from training.recipes.rl import saved
from training.recipes.rl.host_loop import HostLoop, Schedule

SCHEDULE = Schedule(environments=2, rollout=4, steps=48, measured=3)


class Counting:
    """Always acts 0; its memory counts the steps of an episode, its state the updates."""

    def __init__(self):
        self.rollouts = []

    def start(self, key):
        del key
        return jnp.zeros((), jnp.int32)

    def remembered(self, count):
        return np.zeros(count, np.int64)

    def act(self, state, memory, observation_B, first_B, key):
        memory = np.where(first_B, 0, memory) + 1
        return np.zeros(len(first_B), np.int64), {"memory": memory}, memory

    def update(self, state, collected, key, number):
        self.rollouts.append(collected)
        return state + 1, {"loss": jnp.float32(number)}


def loop(agent):
    return HostLoop(agent, lambda seed: Corridors(2, seed), SCHEDULE)


def test_records_and_rollouts(tmp_path):
    agent = Counting()
    running = loop(agent)
    records = list(
        running.records(tmp_path, 0, "a", at_measurement=lambda state: {"updates": int(state)})
    )
    assert [one["updates"] for one in records] == [2, 4, 6]
    assert [one["loss"] for one in records] == [0.5, 2.5, 4.5]
    # 16 steps of corridors of 3 in two environments: 4 episodes at first, and 5 at the end
    assert [one["episodes"] for one in records] == [4, 6, 6]
    assert all(one["length"] == LENGTH and 0 <= one["return"] <= 1 for one in records)
    assert running.environments.closed
    first, second = agent.rollouts[:2]
    np.testing.assert_array_equal(first.kept["memory"][:, 0], [1, 2, 3, 1])
    np.testing.assert_array_equal(first.first[:, 0], [True, False, False, True])
    np.testing.assert_array_equal(first.done[:, 0], [False, False, True, False])
    assert first.observation.shape == (4, 2, 2)
    np.testing.assert_array_equal(first.last_observation, second.observation[0])
    np.testing.assert_array_equal(first.last_memory, second.memory)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "KEPT_EVERY", 0.0)
    monkeypatch.setattr(saved.Saved.__init__, "__kwdefaults__", {"every": 0.0})
    begun = list(itertools.islice(loop(Counting()).records(tmp_path, 0, "a"), 2))
    again = loop(Counting())
    records = list(again.records(tmp_path, 0, "a"))
    assert records[:1] == begun[:1]  # the second was not kept yet
    assert int(again.state) == 6
    assert [one["loss"] for one in records] == [0.5, 2.5, 4.5]


def test_a_schedule_of_nothing():
    with pytest.raises(UserError, match="rollout=0: expected at least 1"):
        Schedule(environments=1, rollout=0, steps=1)
    assert SCHEDULE.between == 2
    assert jax.tree.leaves(SCHEDULE) == [SCHEDULE]
