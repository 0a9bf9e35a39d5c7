# SPDX-License-Identifier: Apache-2.0
"""Demonstrations are whole episodes, a copy does what was shown, a critic knows returns, and each
way of retention is nothing at the copy itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.dynamic.retention import Weight
from tests.training.recipes.forgetting.rooms_without_minihack import environments
from training.recipes.forgetting.minihack import Task
from training.recipes.forgetting.minihack_clone import cloned, demonstrate, retention, valued
from training.recipes.forgetting.minihack_rooms import Rooms
from training.recipes.rl.ppo import PPO, PPOChoices
from training.recipes.vision.mlp import MLPConfig

TASK = Task(rooms=Rooms(columns=2, side=2), view=7, slip=0.0)
NETWORK = MLPConfig(widths=(16,))
CHOICES = PPOChoices(actor=NETWORK, critic=NETWORK, environments=4, rollout=8, minibatch=8)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def agent():
    walkers = environments(TASK, 1, seed=0)
    return PPO(CHOICES, walkers.observation_shape, walkers.policy)


@pytest.fixture(scope="module")
def shown():
    return demonstrate(environments(TASK, 2, seed=0), 3)


@pytest.fixture(scope="module")
def copy(agent, shown):
    return cloned(agent, shown, KEY, updates=300)


def test_demonstrations_are_whole_episodes(shown):
    way, far = (TASK.rooms.distance_HW[at] for at in (TASK.rooms.start, TASK.rooms.far_start))
    assert shown.episode_N.tolist() == [0] * way + [1] * way + [2] * way
    assert shown.observation_N.shape == (3 * way, 7, 7, 3)
    # the state before the staircase is the last; in FAR begins with the gap
    assert shown.far_N.sum() == 3 * (far + 1)
    one = shown.where(shown.episode_N == 1)
    assert len(one.action_N) == way
    np.testing.assert_array_equal(one.observation_N, shown.where(shown.episode_N == 0)[0])


def test_a_copy_does_what_it_was_shown(agent, shown, copy):
    likeliest_N = agent.policy.mode(agent.judge(copy, jnp.asarray(shown.observation_N)).outputs)
    np.testing.assert_array_equal(likeliest_N, shown.action_N)
    alone = cloned(agent, shown.where(shown.far_N), KEY, updates=300)
    far_N = agent.policy.mode(agent.judge(alone, jnp.asarray(shown.observation_N)).outputs)
    right_N = np.asarray(far_N) == shown.action_N
    assert right_N[shown.far_N].all()
    assert not right_N[~shown.far_N].all()


def test_a_critic_knows_the_returns_of_the_copy(agent, shown, copy):
    walkers = environments(TASK, 4, seed=1)
    critic = valued(agent, copy, walkers, KEY, steps=64, updates=400)
    way = TASK.rooms.distance_HW[TASK.rooms.start]
    first = shown.where(shown.episode_N == 0)
    value_N = np.asarray(agent.value(critic, jnp.asarray(first.observation_N)))
    # each step of the way is paid alike, so that the return falls along it
    expected_N = (1 - 0.99 ** (way - np.arange(way))) / (1 - 0.99) / way
    np.testing.assert_allclose(value_N, expected_N, atol=0.15)
    assert value_N[0] > value_N[-1] + 0.5


@pytest.mark.parametrize("method", ["bc", "ks", "ewc"])
def test_retention_is_least_at_the_copy_and_falls_with_its_weight(agent, shown, copy, method):
    weight = Weight(start=2.0, decay=0.5, floor=0.25)
    of_update = retention(agent, copy, shown, method, weight)
    assert of_update is not None
    moved = jax.tree.map(lambda x: x + 0.3, copy)
    observation_M = jnp.asarray(shown.observation_N[:8])
    loss = jax.jit(
        jax.value_and_grad(lambda actor, number: of_update(number)(actor, observation_M, KEY))
    )
    losses = [float(loss(moved, jnp.int32(number))[0]) for number in (0, 1, 9)]
    assert losses[0] > 0
    np.testing.assert_allclose(losses, [losses[0], losses[0] / 2, losses[0] / 8], rtol=1e-5)
    least, grads = loss(copy, jnp.int32(0))
    assert float(least) == pytest.approx(0, abs=1e-6)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads)) < 1e-5


def test_what_each_method_reads(agent, shown, copy):
    """KS reads the minibatch, BC what is stored, EWC neither; none has no loss."""
    moved = jax.tree.map(lambda x: x + 0.3, copy)
    near, far = (jnp.asarray(shown.where(which).observation_N[:4])
                 for which in (~shown.far_N, shown.far_N))  # fmt: skip
    weight = Weight(start=1.0)

    def losses(method, stored):
        of_update = retention(agent, copy, stored, method, weight)
        assert of_update is not None
        loss = jax.jit(of_update(jnp.int32(0)))
        return float(loss(moved, near, KEY)), float(loss(moved, far, KEY))

    reads = {method: losses(method, shown) for method in ("bc", "ks", "ewc")}
    assert {name: a != b for name, (a, b) in reads.items()} == {
        "bc": False,
        "ks": True,
        "ewc": False,
    }
    assert losses("bc", shown.where(shown.far_N)) != reads["bc"]
    assert retention(agent, copy, shown, "none", weight) is None
