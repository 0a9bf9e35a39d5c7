# SPDX-License-Identifier: Apache-2.0
"""PPO for an agent that remembers: one network of an encoder, a core (cores.py) and two heads.

As ppo.py, but that minibatches are whole rows of the rollout, each from the state that its
environment's memory had at the rollout's beginning; gradients go back to there. Everything runs
inside of one program: an iteration is a rollout and the epochs on it.

    L = L_clip + 1/2 value_weight (V - target)^2 - entropy H

Legend: B environments (rows), T steps of a rollout, R rows of a minibatch, O outputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from recurrentgemma.errors import UserError
from training.finetuning.advantages import advantages
from training.finetuning.policy_losses import clipped_loss, standardised
from training.recipes.rl.cores import CoreConfig, core_of
from training.recipes.rl.distributions import Distribution
from training.recipes.rl.environments import Environment, Episodes, counted, emptied, no_episodes


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecurrentChoices:
    """An agent that remembers. rows: of a minibatch, environments."""

    core: CoreConfig
    environments: int = 64
    rollout: int = 64
    epochs: int = 4
    rows: int = 16
    learning_rate: float = 1e-3
    clip: float = 0.2
    entropy: float = 0.01
    value_weight: float = 0.5
    discount: float = 0.99
    trace: float = 0.95
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        if self.environments % self.rows:
            raise UserError(
                f"rows={self.rows} does not divide the {self.environments} environments: choose "
                "one that does"
            )


class Agent(nnx.Module):
    """Observations to the policy's outputs and the value."""

    def __init__(self, core: CoreConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(inputs, core.width, rngs=rngs)
        self.core = core_of(core, rngs=rngs)
        self.head = nnx.Linear(core.width, outputs + 1, rngs=rngs)

    def __call__(
        self, observation_BT: jax.Array, state: Any, first_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """(outputs_BTO, value_BT, state)."""
        x_BTI = observation_BT.reshape(*first_BT.shape, -1)
        y_BTD, state = self.core(jax.nn.relu(self.encoder(x_BTI)), state, first_BT)
        out_BTO = self.head(y_BTD)
        return out_BTO[..., :-1], out_BTO[..., -1], state


class RecurrentState(NamedTuple):
    """All that a run goes on with. first_B: an episode begins with this observation."""

    params: Any
    opt_state: Any
    memory: Any
    environments: Any
    observation_B: jax.Array
    first_B: jax.Array
    episodes: Episodes


class _Steps(NamedTuple):
    """[T, B, ...], or [B, T, ...] of an update."""

    observation: jax.Array
    first: jax.Array
    drawn: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


class RecurrentPPO:
    """The pure functions of a run."""

    def __init__(self, choices: RecurrentChoices, environment: Environment):
        self.choices, self.environment = choices, environment
        self.policy: Distribution = environment.policy
        self.tx = optax.chain(
            optax.clip_by_global_norm(choices.max_grad_norm), optax.scale_by_adam()
        )
        self._graphdef = nnx.split(nnx.eval_shape(lambda: self._agent(jax.random.key(0))))[0]

    def start(self, key: jax.Array) -> RecurrentState:
        """Newly initialised."""
        count = self.choices.environments
        agent_key, environment_key = jax.random.split(key)
        agent = self._agent(agent_key)
        params = nnx.split(agent)[1]
        observation_B, environments = jax.vmap(self.environment.reset)(
            jax.random.split(environment_key, count)
        )
        return RecurrentState(
            params,
            self.tx.init(params),
            agent.core.start(count),
            environments,
            observation_B,
            jnp.ones(count, bool),
            no_episodes(count),
        )

    def iteration(
        self, state: RecurrentState, key: jax.Array
    ) -> tuple[RecurrentState, dict[str, jax.Array]]:
        """A rollout and the epochs on it; what is logged of both."""
        rollout_key, update_key = jax.random.split(key)
        memory = state.memory
        state, steps = self._rollout(state, rollout_key)
        params, opt_state, losses = self._update(state, memory, steps, update_key)
        episodes, finished = emptied(state.episodes)
        state = state._replace(params=params, opt_state=opt_state, episodes=episodes)
        return state, {**finished, **losses}

    def judge(
        self, params: Any, observation_BT: jax.Array, memory: Any, first_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """(outputs_BTO, value_BT, memory) of the agent with these parameters."""
        return nnx.merge(self._graphdef, params)(observation_BT, memory, first_BT)

    def _agent(self, key: jax.Array) -> Agent:
        inputs = 1
        for extent in self.environment.observation_shape:
            inputs *= extent
        return Agent(self.choices.core, inputs, self.policy.outputs, rngs=nnx.Rngs(key))

    def _rollout(self, state: RecurrentState, key: jax.Array) -> tuple[RecurrentState, _Steps]:
        choices = self.choices

        def step(carried: RecurrentState, one_key: jax.Array) -> tuple[RecurrentState, _Steps]:
            act_key, step_key = jax.random.split(one_key)
            outputs_B1O, value_B1, memory = self.judge(
                carried.params,
                carried.observation_B[:, None],
                carried.memory,
                carried.first_B[:, None],
            )
            drawn_B = self.policy.sample(outputs_B1O[:, 0], act_key)
            keys = jax.random.split(step_key, choices.environments)
            environments, stepped = jax.vmap(self.environment.step)(
                keys, carried.environments, self.policy.action(drawn_B)
            )
            done_B = stepped.terminated | stepped.truncated
            after = carried._replace(
                memory=memory,
                environments=environments,
                observation_B=stepped.observation,
                first_B=done_B,
                episodes=counted(carried.episodes, stepped.reward, done_B),
            )
            return after, _Steps(
                carried.observation_B,
                carried.first_B,
                drawn_B,
                self.policy.log_prob(outputs_B1O[:, 0], drawn_B),
                value_B1[:, 0],
                stepped.reward,
                done_B,
            )

        return jax.lax.scan(step, state, jax.random.split(key, choices.rollout))

    def _update(
        self, state: RecurrentState, memory: Any, steps: _Steps, key: jax.Array
    ) -> tuple[Any, Any, dict[str, jax.Array]]:
        choices = self.choices
        last_B1 = self.judge(
            state.params, state.observation_B[:, None], state.memory, state.first_B[:, None]
        )[1]
        advantage_TB = advantages(
            steps.reward,
            steps.value,
            steps.done,
            last_B1[:, 0],
            discount=choices.discount,
            trace=choices.trace,
        )
        rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), steps)
        data = (rows, advantage_TB.T, (advantage_TB + steps.value).T, memory)

        return on_rows(
            (state.params, state.opt_state),
            data,
            key,
            loss=lambda params, batch: self._loss(params, *batch),
            tx=self.tx,
            learning_rate=choices.learning_rate,
            epochs=choices.epochs,
            rows=choices.rows,
        )

    def _loss(
        self,
        params: Any,
        rows: _Steps,
        advantage_RT: jax.Array,
        target_RT: jax.Array,
        memory: Any,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs_RTO, value_RT, _ = self.judge(params, rows.observation, memory, rows.first)
        outputs = outputs_RTO.reshape(-1, outputs_RTO.shape[-1])
        drawn = rows.drawn.reshape(-1, *rows.drawn.shape[2:])
        log_ratio = self.policy.log_prob(outputs, drawn) - rows.log_prob.reshape(-1)
        advantage = standardised(advantage_RT.reshape(-1))
        clipped = jnp.mean(clipped_loss(log_ratio, advantage, self.choices.clip))
        entropy = jnp.mean(self.policy.entropy(outputs, jax.random.key(0)))
        value = 0.5 * jnp.mean(jnp.square(value_RT - target_RT))
        loss = clipped + self.choices.value_weight * value - self.choices.entropy * entropy
        return loss, {"policy_loss": clipped, "entropy": entropy, "value_loss": value}


def on_rows(
    start: tuple[Any, Any],
    data: Any,
    key: jax.Array,
    *,
    loss: Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]],
    tx: optax.GradientTransformation,
    learning_rate: jax.Array | float,
    epochs: int,
    rows: int,
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """All epochs on minibatches of whole rows: parameters, the optimizer's state, and the means of
    what is logged. start: the first two. data: a tree [B, ...]; loss: of `rows` of it."""

    def minibatch(carried: tuple[Any, Any], rows_R: jax.Array) -> tuple[tuple[Any, Any], Any]:
        params, opt_state = carried
        batch = jax.tree.map(lambda x: x[rows_R], data)
        grads, losses = jax.grad(loss, has_aux=True)(params, batch)
        # optax raises a float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, opt_state, params)
        stepped = jax.tree.map(lambda x, u: x - learning_rate * u, params, updates)
        return (stepped, opt_state), losses

    def epoch(carried: tuple[Any, Any], one_key: jax.Array) -> tuple[tuple[Any, Any], Any]:
        order = jax.random.permutation(one_key, len(jax.tree.leaves(data)[0]))
        return jax.lax.scan(minibatch, carried, order.reshape(-1, rows))

    (params, opt_state), losses = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
    return params, opt_state, jax.tree.map(jnp.mean, losses)
