# SPDX-License-Identifier: Apache-2.0
"""Capacity loss, as in 2405.00662: how well an agent's networks still learn something new.

A copy of the actor is fitted to a freshly initialised one (by KL), one of the critic to a fresh
critic (by squared error), on the states of one rollout of the untrained agent, with a fresh Adam.
What is reported is the loss of the last minibatch of the last epoch. Legend: N states, M minibatch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from training.recipes.rl.ppo import PPO, AgentState


def capacity_loss(
    agent: PPO,
    state: AgentState,
    fresh: AgentState,
    observation_N: jax.Array,
    key: jax.Array,
    *,
    epochs: int,
) -> dict[str, jax.Array]:
    """`capacity_actor` and `capacity_critic` of a state, which stays. fresh: the targets'."""
    target_NO = agent.judge(fresh.actor, observation_N).outputs
    value_N = agent.value(fresh.critic, observation_N)

    def actor_loss(params: Any, rows_M: jax.Array) -> jax.Array:
        outputs_MO = agent.judge(params, observation_N[rows_M]).outputs
        return jnp.mean(agent.policy.kl(target_NO[rows_M], outputs_MO))

    def critic_loss(params: Any, rows_M: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(agent.value(params, observation_N[rows_M]) - value_N[rows_M]))

    order_key = jax.random.fold_in(key, 1)
    return {
        "capacity_actor": _fitted(agent, actor_loss, state.actor, len(value_N), order_key, epochs),
        "capacity_critic": _fitted(
            agent, critic_loss, state.critic, len(value_N), order_key, epochs
        ),
    }


def _fitted(
    agent: PPO, loss: Any, params: Any, count: int, key: jax.Array, epochs: int
) -> jax.Array:
    """The loss of the last minibatch."""
    size = min(agent.choices.minibatch, count)
    batches = count // size

    def step(carried: tuple[Any, Any], rows_M: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        params, opt_state = carried
        value, grads = jax.value_and_grad(loss)(params, rows_M)
        return agent.stepped(params, grads, opt_state, agent.choices.learning_rate), value

    def epoch(carried: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        order = jax.random.permutation(key, count)[: batches * size].reshape(batches, size)
        return jax.lax.scan(step, carried, order)

    start = (params, agent.tx.init(params))
    return jax.lax.scan(epoch, start, jax.random.split(key, epochs))[1][-1, -1]
