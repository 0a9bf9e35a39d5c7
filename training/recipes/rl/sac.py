# SPDX-License-Identifier: Apache-2.0
"""Soft actor-critic (Haarnoja et al., 2018, the version with a learned temperature), on
environments outside of the program.

    agent = SAC(SACChoices(actor=MLPConfig(...), critic=MLPConfig(...)), shape, policy)
    state = agent.start(key)
    drawn_B = agent.act(state.actor, observation_B, key)
    state, losses = agent.learn(state, transition_B, key)     # as many updates as transitions

    y      = r + discount (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a' | s'))
    L_Q    = sum_i mean (Q_i(s, a) - y)^2            Q': a moving average of Q
    L_pi   = mean (alpha log pi(a | s) - min_i Q_i(s, a))
    L_alpha = -mean alpha (log pi(a | s) + target entropy)

The target entropy is minus the number of an action's dimensions. What is kept of an action is the
variable before the tanh (distributions.py). The floats of the choices may be traced. What holds an
actor to what it was (recipes/forgetting) is a term beside L_pi, or rows of the buffer that stay.

Legend: B environments, M batch, D observation, A dimensions of an action, 2 critics.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell
from training.recipes.rl.distributions import Distribution, TanhNormal
from training.recipes.rl.host_environments import HostEnvironments, gymnasium_environments
from training.recipes.rl.networks import torch_default
from training.recipes.rl.replay import Buffer, added, drawn, empty
from training.recipes.rl.saved import Saved
from training.recipes.vision.network import Network, NetworkConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACChoices:
    """The defaults are the paper's for MuJoCo, but for fewer random steps."""

    actor: NetworkConfig
    critic: NetworkConfig
    environments: int = 1
    buffer: int = 1_000_000
    begin: int = 5_000
    """Transitions of random actions before the first update."""
    batch: int = 256
    learning_rate: float = 3e-4
    discount: float = 0.99
    average: float = 0.005
    """The share of Q in Q' that an update adds."""

    def __post_init__(self) -> None:
        if self.buffer % self.environments:
            raise UserError(
                f"buffer={self.buffer:,} is no multiple of the {self.environments} environments"
            )


class Transition(NamedTuple):
    """A step of one environment. terminated: the episode has ended (not: was cut off)."""

    observation: Any
    drawn: Any
    reward: Any
    terminated: Any
    next_observation: Any


class SACState(NamedTuple):
    """All that learning goes on with. critics, targets: two of each, stacked."""

    actor: Any
    critics: Any
    targets: Any
    log_alpha: jax.Array
    actor_opt: Any
    critics_opt: Any
    alpha_opt: Any
    buffer: Buffer


class SAC:
    """See the module. Raises UserError: actions are not continuous.

    beside: (actor, key) -> what is added to L_pi. protected: so many rows of the buffer, those that
    were added first, are not overwritten.
    """

    def __init__(
        self,
        choices: SACChoices,
        observation_shape: tuple[int, ...],
        policy: Distribution,
        *,
        beside: Callable[[Any, jax.Array], jax.Array] | None = None,
        protected: int = 0,
    ):
        if not isinstance(policy, TanhNormal):
            raise UserError(f"SAC with a policy of kind {policy}: expected continuous actions")
        self.choices, self.policy, self.observation_shape = choices, policy, observation_shape
        self.beside, self.protected = beside, protected
        self.dimensions = len(policy.low)
        size = int(np.prod(observation_shape))
        self.actor = Network(choices.actor, image_shape=observation_shape, outputs=policy.outputs)
        self.critic = Network(choices.critic, image_shape=(1, 1, size + self.dimensions), outputs=1)
        self.tx = optax.scale_by_adam()

    def start(self, key: jax.Array) -> SACState:
        """Newly initialised, the buffer empty."""
        actor_key, critics_key = jax.random.split(key)
        actor = torch_default(self.actor.init(actor_key)[0], actor_key)
        critics = jax.vmap(lambda one: torch_default(self.critic.init(one)[0], one))(
            jax.random.split(critics_key)
        )
        seen, none = jnp.zeros(self.observation_shape), jnp.zeros(())
        one = Transition(seen, jnp.zeros(self.dimensions), none, jnp.asarray(False), seen)
        log_alpha = jnp.zeros(())
        return SACState(
            actor,
            critics,
            critics,
            log_alpha,
            self.tx.init(actor),
            self.tx.init(critics),
            self.tx.init(log_alpha),
            empty(self.choices.buffer, one),
        )

    def act(self, actor: Any, observation_B: jax.Array, key: jax.Array) -> jax.Array:
        """What is drawn of the policy, [B, A]."""
        return self.policy.sample(self.actor.apply(actor, {}, observation_B).outputs_BO, key)

    def learn(
        self, state: SACState, transition_B: Transition, key: jax.Array
    ) -> tuple[SACState, dict[str, jax.Array]]:
        """Keep the transitions of a step of every environment, and update as many times, once there
        are enough; means of the losses by name."""
        buffer = added(state.buffer, transition_B, protected=self.protected)
        state = state._replace(buffer=buffer)
        begun = state.buffer.full >= self.choices.begin

        def once(carried: SACState, one_key: jax.Array) -> tuple[SACState, dict[str, jax.Array]]:
            return self._update(carried, one_key)

        def all_of_them(state: SACState) -> tuple[SACState, dict[str, jax.Array]]:
            keys = jax.random.split(key, self.choices.environments)
            state, losses = jax.lax.scan(once, state, keys)
            return state, jax.tree.map(jnp.mean, losses)

        def none(state: SACState) -> tuple[SACState, dict[str, jax.Array]]:
            zero = jnp.zeros(())
            return state, {"critic_loss": zero, "policy_loss": zero, "entropy": zero, "alpha": zero}

        return jax.lax.cond(begun, all_of_them, none, state)

    def values(self, critics: Any, observation_M: jax.Array, drawn_MA: jax.Array) -> jax.Array:
        """Q of both, [2, M]."""
        seen_MD = observation_M.reshape(observation_M.shape[0], -1)
        inputs = jnp.concatenate([seen_MD, jnp.tanh(drawn_MA)], -1)[:, None, None]
        return jax.vmap(lambda one: self.critic.apply(one, {}, inputs).outputs_BO[:, 0])(critics)

    def target(self, state: SACState, batch: Transition, key: jax.Array) -> jax.Array:
        """y, [M]."""
        outputs = self.actor.apply(state.actor, {}, batch.next_observation).outputs_BO
        next_MA = self.policy.sample(outputs, key)
        next_M = jnp.min(self.values(state.targets, batch.next_observation, next_MA), 0)
        next_M -= jnp.exp(state.log_alpha) * self.policy.log_prob(outputs, next_MA)
        going_on_M = 1 - batch.terminated.astype(jnp.float32)
        return batch.reward + self.choices.discount * going_on_M * next_M

    def judge(
        self, state: SACState, batch: Transition, key: jax.Array
    ) -> tuple[SACState, jax.Array]:
        """One update of critics and targets alone; and their loss."""
        y_M = self.target(state, batch, key)

        def critic_loss(critics: Any) -> jax.Array:
            q_2M = self.values(critics, batch.observation, batch.drawn)
            return jnp.sum(jnp.mean(jnp.square(q_2M - y_M[None]), 1))

        loss, grads = jax.value_and_grad(critic_loss)(state.critics)
        critics, critics_opt = self._stepped(state.critics, grads, state.critics_opt)
        share = self.choices.average
        targets = jax.tree.map(lambda t, c: t + share * (c - t), state.targets, critics)
        return state._replace(critics=critics, targets=targets, critics_opt=critics_opt), loss

    def _update(self, state: SACState, key: jax.Array) -> tuple[SACState, dict[str, jax.Array]]:
        rows_key, target_key, actor_key = jax.random.split(key, 3)
        batch: Transition = drawn(state.buffer, rows_key, self.choices.batch)
        state, loss = self.judge(state, batch, target_key)

        def actor_loss(actor: Any) -> tuple[jax.Array, jax.Array]:
            outputs = self.actor.apply(actor, {}, batch.observation).outputs_BO
            drawn_MA = self.policy.sample(outputs, actor_key)
            log_prob_M = self.policy.log_prob(outputs, drawn_MA)
            q_M = jnp.min(self.values(state.critics, batch.observation, drawn_MA), 0)
            value = jnp.mean(jnp.exp(state.log_alpha) * log_prob_M - q_M)
            if self.beside is not None:
                value += self.beside(actor, jax.random.fold_in(actor_key, 1))
            return value, jnp.mean(log_prob_M)

        (policy_loss, log_prob), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_opt = self._stepped(state.actor, grads, state.actor_opt)
        # of -alpha (log pi + target entropy), by the logarithm of alpha
        grad = -jnp.exp(state.log_alpha) * (log_prob - self.dimensions)
        log_alpha, alpha_opt = self._stepped(state.log_alpha, grad, state.alpha_opt)
        state = state._replace(
            actor=actor, actor_opt=actor_opt, log_alpha=log_alpha, alpha_opt=alpha_opt
        )
        return state, {
            "critic_loss": loss,
            "policy_loss": policy_loss,
            "entropy": -log_prob,
            "alpha": jnp.exp(log_alpha),
        }

    def _stepped(self, params: Any, grads: Any, opt_state: Any) -> tuple[Any, Any]:
        # optax raises a float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = self.tx.update(grads, opt_state, params)
        rate = self.choices.learning_rate
        return jax.tree.map(lambda x, update: x - rate * update, params, updates), opt_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACArm:
    """steps: of all environments together, at least; measured: how many times, evenly."""

    choices: SACChoices
    environment: str
    steps: int = 1_000_000
    measured: int = 40

    @property
    def block(self) -> int:
        """Steps of each environment between two measurements."""
        return -(-self.steps // (self.choices.environments * self.measured))


def records(
    arm: SACArm,
    seed: int,
    folder: Path,
    *,
    make: Callable[..., Any] = gymnasium_environments,
    at_measurement: Callable[[SAC, SACState, jax.Array], dict[str, float]] | None = None,
) -> Iterator[dict[str, Any]]:
    """What is logged at each measurement of a run, means since the one before; those of a run that
    was stopped first. The run is kept in `folder` about once a minute. at_measurement: more
    numbers, of the agent, its state and a key."""
    environments: HostEnvironments = make(arm.environment, arm.choices.environments, seed=seed)
    agent = SAC(arm.choices, environments.observation_shape, environments.policy)
    act, learn = jax.jit(agent.act), jax.jit(agent.learn, donate_argnums=0)
    key = jax.random.key(seed)
    saved = Saved(folder, [dataclasses.asdict(arm), seed])
    with environments:
        observation_B = environments.reset()
        start = (jax.jit(agent.start)(jax.random.fold_in(key, 500)), observation_B)
        (state, observation_B), kept = saved.taken(start)
        observation_B, logged = np.asarray(observation_B), kept.get("records", [])
        running_B = np.asarray(kept.get("running", np.zeros(arm.choices.environments)))
        if kept:
            environments.restore(kept["environments"])
        yield from logged
        while len(logged) < arm.measured:
            began, returns, losses = time.monotonic(), [], []
            for number in range(len(logged) * arm.block, (len(logged) + 1) * arm.block):
                act_key, learn_key = jax.random.split(jax.random.fold_in(key, number))
                if number * arm.choices.environments < arm.choices.begin:
                    shape = (arm.choices.environments, agent.dimensions)
                    share_BA = jax.random.uniform(act_key, shape, minval=-0.999, maxval=0.999)
                    drawn_BA = np.asarray(jnp.arctanh(share_BA))
                else:
                    drawn_BA = np.asarray(act(state.actor, observation_B, act_key))
                stepped = environments.step(np.asarray(agent.policy.action(drawn_BA)))
                transition = Transition(
                    observation_B,
                    drawn_BA,
                    stepped.reward,
                    stepped.terminated,
                    stepped.final_observation,
                )
                state, loss = learn(state, transition, learn_key)
                losses.append(jax.device_get(loss))
                running_B += stepped.reward
                done_B = stepped.terminated | stepped.truncated
                returns.extend(running_B[done_B].tolist())
                running_B[done_B] = 0
                observation_B = stepped.observation
            seconds = time.monotonic() - began
            logged.append(
                {
                    "return": float(np.mean(returns)) if returns else None,
                    "episodes": len(returns),
                    "steps_per_second": arm.block * arm.choices.environments / seconds,
                    **{name: float(np.mean([one[name] for one in losses])) for name in losses[0]},
                }
            )
            if at_measurement is not None:
                probe_key = jax.random.fold_in(jax.random.fold_in(key, 501), len(logged))
                logged[-1] |= at_measurement(agent, state, probe_key)
            yield logged[-1]
            saved.keep(
                (state, observation_B),
                {
                    "records": logged,
                    "running": running_B.tolist(),
                    "environments": environments.snapshot(),
                },
            )
    saved.remove()


def train_sac(
    cells: Sequence[Cell], folder: Path, **options: Any
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The numbers of each cell of SACArm, one after another. options: of `records`."""
    for cell in cells:
        curves: dict[str, list[Any]] = {}
        for record in records(cell.choices, cell.seed, folder, **options):
            for name, value in record.items():
                curves.setdefault(name, []).append(value)
            print(
                f"  {cell.arm}, seed {cell.seed}: {len(curves['return'])} of "
                f"{cell.choices.measured}  return {record['return'] or 0:.1f}  "
                f"{record['steps_per_second']:,.0f} steps/s",
                file=sys.stderr,
                flush=True,
            )
        yield cell, {"measured": curves}
