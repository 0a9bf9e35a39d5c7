# SPDX-License-Identifier: Apache-2.0
"""Capacity loss: small where a network can learn, large where it is dead, and the agent stays."""

import jax
import jax.numpy as jnp

from tests.drawn import normal
from tests.training.recipes.rl.test_ppo import updated
from training.recipes.pfo.capacity import capacity_loss


def larger(params):
    return jax.tree.map(lambda w: 3 * w, params)


def test_a_dead_network_learns_less():
    agent, state, _, _ = updated(learning_rate=3e-2)
    observation = normal(7, (64, 1, 1, 3))
    fresh = agent.start(jax.random.key(8))
    fresh = fresh._replace(actor=larger(fresh.actor), critic=larger(fresh.critic))

    @jax.jit
    def loss(state):
        return capacity_loss(agent, state, fresh, observation, jax.random.key(9), epochs=20)

    def killed(params):
        layer = params["hidden_0"]["linear"]
        return {**params, "hidden_0": {"linear": {**layer, "bias": jnp.full(8, -100.0)}}}

    dead = state._replace(actor=killed(state.actor), critic=killed(state.critic))
    alive, gone = loss(state), loss(dead)
    for name in ("capacity_actor", "capacity_critic"):
        assert float(alive[name]) < 0.5 * float(gone[name])
