# SPDX-License-Identifier: Apache-2.0
"""A policy that is a copy of an expert, and what holds it to what it was.

    shown = demonstrate(environments, 32)                     # the expert's states and actions
    actor = cloned(agent, shown, key, updates=300)            # the least cross-entropy
    critic = valued(agent, actor, environments, key)          # of this policy, before fine-tuning
    held = retention(agent, actor, shown, "ks", Weight(start=1.0))  # HostRun(..., held=held)

The copy is the teacher of each method (2402.02868, section 2), never the expert: BC holds it on the
states that the expert visited, KS where the learner goes, EWC by the Fisher information of the
expert's states. Without its critic's training a new critic's errors would move a good policy first;
the paper trains the critic alone, too.

Legend: N states, M of a minibatch, B environments, A actions.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eval.dynamic.retention import Weight, categorical_fisher, categorical_kl, distance
from training.recipes.forgetting.minihack import RoomEnvironments
from training.recipes.rl.ppo import PPO, Held

Method = Literal["none", "bc", "ks", "ewc"]
BATCH = 128  # states of an update of a copy or a critic, and of those that BC holds
RATE = 1e-3
FISHER_STATES = 256


class Demonstrations(NamedTuple):
    """Of whole episodes, one after another; episode_N: which, from 0."""

    observation_N: np.ndarray
    action_N: np.ndarray
    far_N: np.ndarray
    episode_N: np.ndarray

    def where(self, kept_N: np.ndarray) -> "Demonstrations":
        """Those states alone."""
        return Demonstrations(*(column[kept_N] for column in self))


def demonstrate(environments: RoomEnvironments, episodes: int) -> Demonstrations:
    """So many episodes of the expert, the first to end."""
    observation_B, finished = environments.reset(), []
    running: list[list[tuple[Any, ...]]] = [[] for _ in observation_B]
    while len(finished) < episodes:
        action_B, far_B = environments.expert(), environments.far()
        for steps, *row in zip(running, observation_B, action_B, far_B, strict=True):
            steps.append(tuple(row))
        stepped = environments.step(action_B)
        for row in np.flatnonzero(stepped.terminated | stepped.truncated):
            finished.append(running[row])
            running[row] = []
        observation_B = stepped.observation
    rows = [(*row, number) for number, steps in enumerate(finished[:episodes]) for row in steps]
    return Demonstrations(*(np.stack(column) for column in zip(*rows, strict=True)))


def cloned(agent: PPO, shown: Demonstrations, key: jax.Array, *, updates: int) -> Any:
    """The actor's parameters after so many updates on these states, from new ones."""

    def loss(actor: Any, rows_M: jax.Array) -> jax.Array:
        logits_MA = agent.judge(actor, jnp.asarray(shown.observation_N)[rows_M]).outputs
        action_M = jnp.asarray(shown.action_N, jnp.int32)[rows_M]
        return -jnp.mean(agent.policy.log_prob(logits_MA, action_M))

    return _fitted(loss, jax.jit(agent.start)(key).actor, len(shown.action_N), key, updates)


def valued(
    agent: PPO,
    actor: Any,
    environments: RoomEnvironments,
    key: jax.Array,
    *,
    steps: int,
    updates: int,
) -> Any:
    """A critic's parameters, fitted to the discounted returns of the policy: those of `steps` steps
    of each environment, whose value at the cut is 0."""
    begun = jax.jit(agent.start)(key)
    policy = begun._replace(actor=actor)

    @jax.jit
    def act(observation_B: jax.Array, number: jax.Array) -> jax.Array:
        return agent.act(policy, observation_B, jax.random.fold_in(key, number))

    observation_B, met = environments.reset(), []
    for number in range(steps):
        drawn_B = np.asarray(act(observation_B, np.int32(number)))
        stepped = environments.step(drawn_B)
        done_B = stepped.terminated | stepped.truncated
        met.append((observation_B, stepped.reward, done_B))
        observation_B = stepped.observation
    observation, reward_TB, done_TB = (np.stack(column) for column in zip(*met, strict=True))
    value_TB = np.zeros_like(reward_TB)
    after_B = np.zeros_like(reward_TB[0])
    for number in reversed(range(steps)):
        after_B = reward_TB[number] + agent.choices.discount * after_B * ~done_TB[number]
        value_TB[number] = after_B
    observation_N = observation.reshape(-1, *observation.shape[2:])
    value_N = value_TB.reshape(-1)

    def loss(critic: Any, rows_M: jax.Array) -> jax.Array:
        value_M = agent.value(critic, jnp.asarray(observation_N)[rows_M])
        return 0.5 * jnp.mean(jnp.square(value_M - jnp.asarray(value_N)[rows_M]))

    return _fitted(loss, begun.critic, len(value_N), key, updates)


def retention(
    agent: PPO, teacher: Any, stored: Demonstrations, method: Method, weight: Weight
) -> Callable[[jax.Array], Held] | None:
    """What an update of a number adds to the actor's loss; None of no method."""
    if method == "none":
        return None
    stored_N = jnp.asarray(stored.observation_N)

    def kl(actor: Any, observation_M: jax.Array) -> jax.Array:
        teacher_MA = agent.judge(teacher, observation_M).outputs
        return jnp.mean(categorical_kl(teacher_MA, agent.judge(actor, observation_M).outputs))

    def bc(actor: Any, observation_M: jax.Array, key: jax.Array) -> jax.Array:
        del observation_M
        return kl(actor, stored_N[jax.random.randint(key, (BATCH,), 0, len(stored_N))])

    def ks(actor: Any, observation_M: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return kl(actor, observation_M)

    if method != "ewc":
        loss = bc if method == "bc" else ks
    else:
        rows = np.linspace(0, len(stored_N) - 1, FISHER_STATES).astype(int)
        fisher = jax.jit(categorical_fisher, static_argnums=0)(
            lambda actor, one: agent.judge(actor, one[None]).outputs[0], teacher, stored_N[rows]
        )

        def loss(actor: Any, observation_M: jax.Array, key: jax.Array) -> jax.Array:
            del observation_M, key
            return distance(actor, teacher, fisher)

    def of_update(number: jax.Array) -> Held:
        return lambda actor, observation_M, key: weight.at(number) * loss(actor, observation_M, key)

    return of_update


def _fitted(
    loss: Callable[[Any, jax.Array], jax.Array], params: Any, count: int, key: jax.Array, steps: int
) -> Any:
    """Parameters after so many steps of Adam, each on BATCH rows of `count`."""
    tx = optax.adam(RATE)

    def update(carried: Any, one_key: jax.Array) -> tuple[Any, None]:
        params, opt_state = carried
        grads = jax.grad(loss)(params, jax.random.randint(one_key, (BATCH,), 0, count))
        # optax raises a float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(key, steps)
    return jax.jit(lambda start: jax.lax.scan(update, start, keys)[0][0])((params, tx.init(params)))
