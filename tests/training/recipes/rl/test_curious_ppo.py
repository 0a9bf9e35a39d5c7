# SPDX-License-Identifier: Apache-2.0
"""PPO with curiosity learns what is paid for, its values alone where asked, and is held."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.rl.curiosity import LEAKY, CuriosityChoices
from training.recipes.rl.curious_ppo import CuriousChoices, CuriousPPO
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.environments import Stepped
from training.recipes.rl.host_loop import HostLoop, Schedule
from training.recipes.rl.networks import ConvConfig, ConvLayer

NETWORK = ConvConfig(layers=(ConvLayer(4, 3, 2),), widths=(16,))
SMALL = ConvConfig(layers=(ConvLayer(4, 3, 2),), widths=(), style=LEAKY)
CHOICES = CuriousChoices(
    network=NETWORK,
    curiosity=CuriosityChoices(target=SMALL, predictor=SMALL, outputs=4),
    environments=8,
    rollout=8,
    minibatches=2,
    learning_rate=1e-2,
    discount=0.5,
    intrinsic=0.1,
)
SHAPE, POLICY = (6, 6, 2), Categorical(actions=2)


class Sides:
    """Which side is bright says what is paid for; every fourth step ends an episode."""

    def __init__(self, seed):
        self.random, self.steps = np.random.default_rng(seed), 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass

    def reset(self):
        self.side_B = self.random.integers(2, size=8)
        picture = np.zeros((8, *SHAPE), np.uint8)
        for row, side in enumerate(self.side_B):
            picture[row, :, 3 * side : 3 * side + 3] = 255
        return picture

    def step(self, action_B):
        reward_B = (action_B == self.side_B).astype(np.float32)
        self.steps += 1
        ended_B, seen = np.full(8, self.steps % 4 == 0), self.reset()
        return Stepped(seen, reward_B, ended_B, np.zeros(8, bool), seen)


def trained(agent, tmp_path, updates, begun=None):
    schedule = Schedule(environments=8, rollout=8, steps=64 * updates, measured=1)
    loop = HostLoop(agent, Sides, schedule)
    return list(loop.records(tmp_path, 0, "test", begun=begun)), loop.state


def test_it_learns_and_is_held(tmp_path):
    begun = CuriousPPO(CHOICES, SHAPE, POLICY).start(jax.random.key(0))
    teacher = begun.params

    def held(params, observation_M, beside, number):
        assert observation_M.shape == (32, *SHAPE)
        moved = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), params, beside)
        del number
        return 1e3 * sum(jax.tree.leaves(moved), jnp.zeros(()))

    free, state = trained(CuriousPPO(CHOICES, SHAPE, POLICY), tmp_path, 25, begun)
    agent = CuriousPPO(CHOICES, SHAPE, POLICY, held=held, beside=lambda number: teacher)
    _, strict = trained(agent, tmp_path, 3, begun)
    assert np.isfinite(free[0]["novelty"])
    assert free[0]["predictor_loss"] >= 0
    picture = Sides(5).reset()
    outputs, values = agent.judge(state.params, jnp.asarray(picture))
    assert (np.argmax(np.asarray(outputs), 1) == (picture[:, 0, 5, 0] > 0)).all()
    assert values.shape == (8, 2)
    distances = [
        max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in ((teacher, state.params), (teacher, strict.params))
    ]
    assert distances[1] < 0.5 * distances[0]


def test_the_values_alone_are_trained(tmp_path):
    alone = CuriousPPO(dataclasses.replace(CHOICES, only_critic=True), SHAPE, POLICY)
    begun = alone.seen(alone.start(jax.random.key(0)), Sides(1).reset())
    assert float(begun.curiosity.frames.count) == 8
    _, state = trained(alone, tmp_path, 1, begun)
    picture = Sides(5).reset()
    before, after = (alone.judge(one.params, jnp.asarray(picture)) for one in (begun, state))
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).all()


def test_minibatches_that_do_not_divide():
    with pytest.raises(UserError, match="minibatches=7 does not divide the 64 steps"):
        dataclasses.replace(CHOICES, minibatches=7)
