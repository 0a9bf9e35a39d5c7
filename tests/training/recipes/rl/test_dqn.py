# SPDX-License-Identifier: Apache-2.0
"""C51's projection, double DQN's target, and an agent that learns Catch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.plasticity.agents import AgentLearner
from training.recipes.plasticity.learner import Choices
from training.recipes.rl.dqn import DQN, DQNChoices, Transition, projected
from training.recipes.rl.environments import gymnax_environment
from training.recipes.rl.heads import Head
from training.recipes.vision.mlp import MLPConfig

pytest.importorskip("gymnax", reason="gymnax is not installed here")


def learner(head, environment):
    choices = Choices(network=MLPConfig(widths=(32,)), head=head, learning_rate=3e-3)
    return AgentLearner(choices, environment)


def test_a_projection_keeps_mass_and_mean_within_the_ends():
    support = jnp.linspace(-1, 1, 5)
    p = jax.nn.softmax(normal(0, (3, 5)))
    moved = projected(p, jnp.array([0.1, 0.0, 5.0]), jnp.array([0.5, 1.0, 0.5]), support)
    np.testing.assert_allclose(moved.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(moved[0] @ support, 0.1 + 0.5 * p[0] @ support, atol=1e-6)
    np.testing.assert_allclose(moved[1], p[1], atol=1e-6)
    np.testing.assert_allclose(moved[2], [0, 0, 0, 0, 1], atol=1e-6)


def test_the_target_network_values_the_action_that_the_network_chooses():
    environment = gymnax_environment("Catch-bsuite")
    head = Head()
    agent = DQN(DQNChoices(head=head, discount=0.5), learner(head, environment), environment)
    seen = jnp.zeros((1, *environment.observation_shape))
    state = agent.learner.start(jax.random.key(0))
    target = agent.learner.start(jax.random.key(1))
    for terminated in (False, True):
        batch = Transition(seen, jnp.int32([2]), jnp.ones(1), jnp.array([terminated]), seen)
        best = int(jnp.argmax(agent.numbers(state, seen)[0]))
        goal = 1 + (0 if terminated else 0.5 * agent.numbers(target, seen)[0, best])
        q = agent.numbers(state, seen)
        loss = agent.loss(target, state, batch)(q[..., None])
        np.testing.assert_allclose(loss, (q[0, 2] - goal) ** 2, rtol=1e-5)


@pytest.mark.parametrize("projected_too", [pytest.param(False, marks=pytest.mark.slow), True])
def test_catch_is_learned(projected_too):
    environment = gymnax_environment("Catch-bsuite")
    head = Head(kind="two_hot", bins=11, low=-1, high=1) if projected_too else Head()
    choices = DQNChoices(
        head=head, projected=projected_too, begin=200, buffer=2000, renew=50, falling=4000.0,
        last_epsilon=0.05, every=8,
    )  # fmt: skip
    agent = DQN(choices, learner(head, environment), environment)
    learn = jax.jit(agent.learn, static_argnames="block")
    state = agent.start(jax.random.key(0))
    returns = []
    for number in range(8):
        state, logged = learn(state, jax.random.key(number), block=200)
        returns.append(float(logged["return"]))
    assert returns[0] < 0
    assert returns[-1] > 0.5
    assert int(state.updates) == 1600 - 200 // 8 + 1


def test_what_does_not_fit():
    with pytest.raises(UserError, match="C51 needs bins"):
        DQNChoices(head=Head(), projected=True)
    with pytest.raises(UserError, match="expected a divisor"):
        DQNChoices(head=Head(), every=3)
