# SPDX-License-Identifier: Apache-2.0
"""An update of PPO by its definition, what its interventions change, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.ppo import PPO, PPOChoices, Rollout, as_floats
from training.recipes.vision.mlp import MLPConfig

NETWORK = MLPConfig(widths=(8,))
CHOICES = PPOChoices(
    actor=NETWORK, critic=NETWORK, environments=2, rollout=8, minibatch=16, epochs=1, clip=0.2
)
ROLLOUT = Rollout(
    normal(0, (8, 2, 1, 1, 3)),
    jax.random.randint(jax.random.key(1), (8, 2), 0, 2),
    normal(2, (8, 2)),
    jnp.zeros((8, 2), bool).at[3, 0].set(True),
    normal(3, (2, 1, 1, 3)),
)


def updated(**changes):
    agent = PPO(dataclasses.replace(CHOICES, **changes), (1, 1, 3), Categorical(actions=2))
    state = agent.start(jax.random.key(4))
    new, losses = jax.jit(agent.update)(state, ROLLOUT, jax.random.key(5))
    return agent, state, new, losses


def test_the_first_step_follows_the_policy_gradient():
    """At ratio 1 nothing is clipped: the loss is minus the mean standardised advantage, which is 0,
    and the step of Adam has the learning rate's size."""
    agent, state, new, losses = updated()
    assert float(losses["policy_loss"]) == pytest.approx(0, abs=1e-6)
    assert 0 < float(losses["entropy"]) <= np.log(2) + 1e-6
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), state.actor, new.actor)
    assert float(moved["head"]["kernel"]) == pytest.approx(2.5e-4, rel=0.01)
    # better actions have become likelier
    observation, drawn = ROLLOUT.observation.reshape(-1, 1, 1, 3), ROLLOUT.drawn.reshape(-1)
    ratio = agent.policy.log_prob(agent.judge(new.actor, observation).outputs, drawn)
    ratio -= agent.policy.log_prob(agent.judge(state.actor, observation).outputs, drawn)
    advantage = agent._samples(state, ROLLOUT).advantage
    assert float(jnp.sum(ratio * (advantage - advantage.mean()))) > 0


def test_features_are_held():
    """With a large beta the pre-activations stay nearer to where they were, and with PFO off their
    change is logged all the same."""
    free = updated(epochs=20, learning_rate=1e-2)[3]
    held = updated(epochs=20, learning_rate=1e-2, feature_beta=100.0)[3]
    assert float(held["feature_loss"]) < 0.2 * float(free["feature_loss"])


def test_a_loss_of_the_callers_is_added_to_the_actors_alone():
    """Without one nothing changes; one that is 0 changes nothing either; a strong one keeps the
    actor where it pulls, reads the minibatch, and leaves the critic alone."""
    agent, state, free, losses = updated(epochs=4, learning_rate=1e-2)
    assert "held_loss" not in losses

    def distance(actor):
        pairs = zip(jax.tree.leaves(actor), jax.tree.leaves(state.actor), strict=True)
        return sum(jnp.sum(jnp.square(x - y)) for x, y in pairs)

    def held_by(weight):
        def held(actor, observation_M, key):
            assert observation_M.shape == (16, 1, 1, 3)
            return weight * distance(actor)

        return jax.jit(agent.update, static_argnames="held")(
            state, ROLLOUT, jax.random.key(5), held=held
        )

    still, named = held_by(0.0)
    assert float(named["held_loss"]) == 0
    for x, y in zip(jax.tree.leaves(still), jax.tree.leaves(free), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    kept, named = held_by(100.0)
    assert float(named["held_loss"]) > 0
    assert float(distance(kept.actor)) < 0.5 * float(distance(free.actor))
    for x, y in zip(jax.tree.leaves(kept.critic), jax.tree.leaves(free.critic), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_the_optimizer_is_reset_and_the_rate_annealed():
    _, state, new, _ = updated(reset_optimizer=True)
    for moments, params in ((new.actor_opt, new.actor), (new.critic_opt, new.critic)):
        assert not any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(moments))
        assert params is not None
    agent = PPO(dataclasses.replace(CHOICES, anneal=True), (1, 1, 3), Categorical(actions=2))
    still, _ = agent.update(state, ROLLOUT, jax.random.key(5), 0.0)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), still.actor, state.actor))


def test_a_shared_trunk_is_stepped_by_both_optimizers():
    agent, state, new, _ = updated(shared=True)
    assert agent.judge(new.actor, ROLLOUT.last_observation).outputs.shape == (2, 2)
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), state.actor, new.actor)
    assert float(moved["hidden_0"]["linear"]["kernel"]) == pytest.approx(5e-4, rel=0.05)
    assert float(moved["head"]["kernel"]) == pytest.approx(2.5e-4, rel=0.05)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), new.actor, new.critic))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minibatch": 5}, "minibatch=5 does not divide the 16 steps"),
        ({"epochs": 0}, "epochs=0: expected at least 1"),
        ({"shared": True, "critic": MLPConfig(widths=(9,))}, "another network for the critic"),
    ],
)
def test_choices_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CHOICES, **changes)


def test_pictures_are_between_0_and_1():
    assert as_floats(jnp.uint8([0, 255])).tolist() == [0, 1]
