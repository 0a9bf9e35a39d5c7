# SPDX-License-Identifier: Apache-2.0
"""PPO for an agent that remembers, on environments outside of the program (host_loop.py), and what
holds it to a teacher that remembers, too.

    agent = RecurrentHost(MemoryChoices(...), make_agent, policy, teacher=params, held=held)
    HostLoop(agent, make, schedule)

    L = L_clip + value_weight L_V - entropy H + held
    L_V = 1/2 max((V - target)^2, (V_old + clip(V - V_old, -c, c) - target)^2)

The settings are those of Sample Factory's APPO, which collects with many workers while it learns
and corrects for that; here collecting and learning take turns, so that nothing is to be corrected.
With `normalised_returns` the value is of returns less their running mean, over their deviation.

The teacher steps beside the agent with a memory of its own, over the same observations, and its
outputs are kept with each step. `beside` gives arrays for an update by its number, such as stored
rows. Modules under the names `frozen` are not trained.

Legend: B environments (rows), T steps of a rollout, R rows of a minibatch, O outputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from recurrentgemma.errors import UserError
from training.finetuning.advantages import advantages
from training.finetuning.policy_losses import clipped_loss, standardised
from training.recipes.rl.distributions import Distribution
from training.recipes.rl.host_loop import Collected
from training.recipes.rl.moments import Moments, deviation, extended, no_moments
from training.recipes.rl.recurrent_ppo import on_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryChoices:
    """The defaults are those of 2402.02868, table 1, and trace, 1, of its scripts. rows: of a
    minibatch, environments."""

    environments: int = 128
    rollout: int = 32
    epochs: int = 1
    rows: int = 128
    learning_rate: float = 1e-4
    eps: float = 1e-7
    weight_decay: float = 1e-4
    clip: float = 0.1
    value_clip: float = 1.0
    value_weight: float = 1.0
    entropy: float = 0.001
    discount: float = 0.999999
    trace: float = 1.0
    max_grad_norm: float = 4.0
    normalised_returns: bool = True
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.environments % self.rows:
            raise UserError(
                f"rows={self.rows} does not divide the {self.environments} environments: choose "
                "one that does"
            )


class MemoryState(NamedTuple):
    """All that is learned. returns: their running moments."""

    params: Any
    opt_state: Any
    returns: Moments


class Kept(NamedTuple):
    """Of a step: its log-probability, its value as the network gives it, and the outputs of the
    teacher, () where there is none."""

    log_prob: Any
    value: Any
    teacher: Any


class Row(NamedTuple):
    """[R, T, ...] of a rollout; memory [R, ...] before it."""

    observation: Any
    first: jax.Array
    drawn: jax.Array
    kept: Kept
    advantage: jax.Array
    target: jax.Array
    memory: Any


HeldRows = Callable[[Any, jax.Array, Row, Any, jax.Array], jax.Array]
"""(parameters, outputs_RTO, the rows, what is beside, the update's number) -> what is added to the
loss, its weight in it."""


class RecurrentHost:
    """See the module. make_agent: a module of rngs that maps (observation_BT, memory, first_BT) to
    (outputs_BTO, value_BT, memory) and whose `core` gives new memories."""

    def __init__(
        self,
        choices: MemoryChoices,
        make_agent: Callable[[nnx.Rngs], Any],
        policy: Distribution,
        *,
        teacher: Any = None,
        held: HeldRows | None = None,
        beside: Callable[[int], Any] | None = None,
    ):
        self.choices, self.make_agent, self.policy = choices, make_agent, policy
        self.teacher, self.held, self.beside = teacher, held, beside
        self.tx = optax.chain(
            optax.clip_by_global_norm(choices.max_grad_norm),
            optax.scale_by_adam(eps=choices.eps),
            optax.add_decayed_weights(choices.weight_decay),
        )
        self._graphdef = nnx.split(nnx.eval_shape(lambda: self.make_agent(nnx.Rngs(0))))[0]
        self._act, self._update = jax.jit(self._acted), jax.jit(self._updated)

    def start(self, key: jax.Array) -> MemoryState:
        """Newly initialised."""
        return self.begun(nnx.split(self.make_agent(nnx.Rngs(key)))[1])

    def begun(self, params: Any) -> MemoryState:
        """With these parameters, and nothing else yet."""
        return MemoryState(params, self.tx.init(params), no_moments())

    def remembered(self, count: int) -> Any:
        """New memories of the agent, and of its teacher."""
        memory = self.memory(count)
        return memory, () if self.teacher is None else memory

    def memory(self, count: int) -> Any:
        """Of one network."""
        return nnx.eval_shape(lambda: self.make_agent(nnx.Rngs(0))).core.start(count)

    def judge(
        self, params: Any, observation_BT: Any, memory: Any, first_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """(outputs_BTO, value_BT, memory) of the agent with these parameters."""
        return nnx.merge(self._graphdef, params)(observation_BT, memory, first_BT)

    def act(
        self, state: MemoryState, memory: Any, observation_B: Any, first_B: Any, key: jax.Array
    ) -> tuple[Any, Kept, Any]:
        """A step of each environment."""
        drawn_B, kept, memory = self._act(
            state.params, self.teacher, memory, observation_B, first_B, key
        )
        return drawn_B, jax.device_get(kept), memory

    def update(
        self, state: MemoryState, collected: Collected, key: jax.Array, number: int
    ) -> tuple[MemoryState, dict[str, jax.Array]]:
        """All epochs on a rollout."""
        beside = None if self.beside is None else self.beside(number)
        return self._update(state, collected, beside, key, jnp.int32(number))

    def _acted(
        self, params: Any, teacher: Any, memory: Any, observation_B: Any, first_B: Any, key: Any
    ) -> tuple[jax.Array, Kept, Any]:
        observation_B1 = jax.tree.map(lambda x: x[:, None], observation_B)
        own, teachers = memory
        outputs_B1O, value_B1, own = self.judge(params, observation_B1, own, first_B[:, None])
        judged: Any = ()
        if teacher is not None:
            judged_B1O, _, teachers = self.judge(
                teacher, observation_B1, teachers, first_B[:, None]
            )
            judged = judged_B1O[:, 0]
        drawn_B = self.policy.sample(outputs_B1O[:, 0], key)
        log_prob_B = self.policy.log_prob(outputs_B1O[:, 0], drawn_B)
        return drawn_B, Kept(log_prob_B, value_B1[:, 0], judged), (own, teachers)

    def _updated(
        self, state: MemoryState, collected: Collected, beside: Any, key: jax.Array, number: Any
    ) -> tuple[MemoryState, dict[str, jax.Array]]:
        choices = self.choices
        last_observation_B1 = jax.tree.map(lambda x: x[:, None], collected.last_observation)
        last_B1 = self.judge(
            state.params,
            last_observation_B1,
            collected.last_memory[0],
            collected.last_first[:, None],
        )[1]
        mean, scale = state.returns.mean, deviation(state.returns)
        value_TB = collected.kept.value * scale + mean
        advantage_TB = advantages(
            collected.reward,
            value_TB,
            collected.done,
            last_B1[:, 0] * scale + mean,
            discount=choices.discount,
            trace=choices.trace,
        )
        target_TB = advantage_TB + value_TB
        returns = state.returns
        if choices.normalised_returns:
            returns = extended(returns, target_TB.reshape(-1))
        target_TB = (target_TB - returns.mean) / deviation(returns)
        observation, first, drawn, kept = jax.tree.map(
            lambda x: jnp.moveaxis(x, 0, 1),
            (collected.observation, collected.first, collected.drawn, collected.kept),
        )
        data = Row(
            observation, first, drawn, kept, advantage_TB.T, target_TB.T, collected.memory[0]
        )
        params, opt_state, losses = on_rows(
            (state.params, state.opt_state),
            data,
            key,
            loss=lambda params, row: self._loss(params, row, beside, number),
            tx=optax.GradientTransformation(self.tx.init, self._masked),
            learning_rate=choices.learning_rate,
            epochs=choices.epochs,
            rows=choices.rows,
        )
        return MemoryState(params, opt_state, returns), losses

    def _masked(self, updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        """The optimizer's update of these gradients, nothing of what is frozen in it."""
        updates, state = self.tx.update(self._trained(updates), state, params)
        return self._trained(updates), state

    def _trained(self, tree: Any) -> Any:
        def kept(path: Any, x: jax.Array) -> jax.Array:
            return jnp.zeros_like(x) if path[0].key in self.choices.frozen else x

        return jax.tree_util.tree_map_with_path(kept, tree)

    def _loss(
        self, params: Any, row: Row, beside: Any, number: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        choices = self.choices
        outputs_RTO, value_RT, _ = self.judge(params, row.observation, row.memory, row.first)
        outputs = outputs_RTO.reshape(-1, outputs_RTO.shape[-1])
        log_prob = self.policy.log_prob(outputs, row.drawn.reshape(-1, *row.drawn.shape[2:]))
        advantage = standardised(row.advantage.reshape(-1))
        clipped = jnp.mean(
            clipped_loss(log_prob - row.kept.log_prob.reshape(-1), advantage, choices.clip)
        )
        entropy = jnp.mean(self.policy.entropy(outputs, jax.random.key(0)))
        old_RT = row.kept.value
        near_RT = old_RT + jnp.clip(value_RT - old_RT, -choices.value_clip, choices.value_clip)
        squares_RT = [jnp.square(value - row.target) for value in (value_RT, near_RT)]
        value = 0.5 * jnp.mean(jnp.maximum(*squares_RT))
        loss = clipped + choices.value_weight * value - choices.entropy * entropy
        named = {"policy_loss": clipped, "entropy": entropy, "value_loss": value}
        if self.held is not None:
            named["held_loss"] = self.held(params, outputs_RTO, row, beside, number)
            loss += named["held_loss"]
        return loss, {**named, "loss": loss}


def drawn_rows(stored: Any, count: int, seed: int) -> Callable[[int], Any]:
    """For `beside`: of each update's number so many rows of a stored tree [S, ...], which stays on
    the host."""

    def of_update(number: int) -> Any:
        size = len(jax.tree.leaves(stored)[0])
        chosen = np.random.default_rng([seed, number]).integers(size, size=count)
        return jax.tree.map(lambda x: x[chosen], stored)

    return of_update
