# SPDX-License-Identifier: Apache-2.0
"""Double DQN (van Hasselt et al., 2016) and C51 (Bellemare et al., 2017) on environments that run
inside of the program.

    agent = DQN(choices, learner, environment)
    state = agent.start(key)
    state, logged = agent.learn(state, key)          # `block` steps of every environment

    target = r + discount Q'(s', argmax_a Q(s', a))  Q' as it was `renew` updates ago

With a head of one number the loss is the squared error; with a distribution over bins it is a
cross-entropy: `two_hot` encodes the target number, and `projected` is C51, which moves the whole
distribution of Q' by r and the discount and projects it back onto the bins.

The learner (a network, its optimizer, its interventions) is a value: recipes/plasticity has one.
Legend: B environments, M batch, A actions, K bins.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from recurrentgemma.errors import UserError
from training.recipes.rl.environments import Environment, Episodes, counted, emptied, no_episodes
from training.recipes.rl.heads import Head, decode, support, two_hot, value_loss
from training.recipes.rl.replay import Buffer, added, drawn, empty


class Learner(Protocol):
    """A network with an optimizer, as pure functions of its state."""

    def start(self, key: jax.Array) -> Any:
        """A state, newly initialised."""
        ...

    def values(self, state: Any, x_BHWC: jax.Array) -> jax.Array:
        """[B, A, K]: outputs by action and bin."""
        ...

    def step(
        self, state: Any, loss: Callable[[jax.Array], jax.Array], x_BHWC: jax.Array
    ) -> tuple[Any, jax.Array]:
        """One update by loss(outputs_BAK), and that loss."""
        ...

    def renewed(self, state: Any, key: jax.Array) -> Any:
        """What becomes of a state when the target network is renewed: itself, or after a reset."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNChoices:
    """The defaults are for MinAtar."""

    head: Head
    projected: bool = False
    """C51's target in place of a number's two-hot."""
    environments: int = 8
    buffer: int = 100_000
    begin: int = 5_000
    """Transitions before the first update."""
    batch: int = 32
    every: int = 4
    """Steps, of all environments together, for each update."""
    renew: int = 1_000
    """Updates between two renewals of the target network."""
    discount: float = 0.99
    first_epsilon: float = 1.0
    last_epsilon: float = 0.1
    falling: float = 100_000.0
    """Steps in which epsilon falls, linearly."""

    def __post_init__(self) -> None:
        if self.projected and self.head.kind != "two_hot":
            raise UserError(
                f"projected=True with a head of kind {self.head.kind!r}: C51 needs bins that are "
                "encoded two-hot"
            )
        if self.environments % self.every:
            raise UserError(
                f"every={self.every} with {self.environments} environments: expected a divisor of "
                "their number"
            )
        if self.buffer % self.environments:
            raise UserError(
                f"buffer={self.buffer:,} is no multiple of the {self.environments} environments"
            )


class Transition(NamedTuple):
    """A step of one environment. terminated: the episode has ended (not: was cut off)."""

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    next_observation: jax.Array


class DQNState(NamedTuple):
    """All that learning goes on with. steps: of all environments; updates: of the network."""

    learner: Any
    target: Any
    buffer: Buffer
    environments: Any
    observation_B: jax.Array
    episodes: Episodes
    steps: jax.Array
    updates: jax.Array


class DQN:
    """See the module. bytes: keep observations as such, which loses nothing of 0 and 1."""

    def __init__(
        self, choices: DQNChoices, learner: Learner, environment: Environment, *, bytes: bool = True
    ):
        self.choices, self.learner, self.environment = choices, learner, environment
        self.kept = jnp.uint8 if bytes else jnp.float32

    def start(self, key: jax.Array) -> DQNState:
        """Newly initialised, the buffer empty."""
        count = self.choices.environments
        learner_key, environment_key = jax.random.split(key)
        keys = jax.random.split(environment_key, count)
        observation_B, environments = jax.vmap(self.environment.reset)(keys)
        learner = self.learner.start(learner_key)
        seen = jnp.zeros(self.environment.observation_shape, self.kept)
        one = Transition(seen, jnp.int32(0), jnp.zeros(()), jnp.asarray(False), seen)
        return DQNState(
            learner,
            learner,
            empty(self.choices.buffer, one),
            environments,
            observation_B,
            no_episodes(count),
            jnp.int32(0),
            jnp.int32(0),
        )

    def learn(
        self, state: DQNState, key: jax.Array, *, block: int
    ) -> tuple[DQNState, dict[str, jax.Array]]:
        """`block` steps of every environment and the updates among them; what is logged."""
        state, losses = jax.lax.scan(self._once, state, jax.random.split(key, block))
        episodes, finished = emptied(state.episodes)
        return state._replace(episodes=episodes), {**finished, "loss": jnp.mean(losses)}

    def numbers(self, learner: Any, observation_N: jax.Array) -> jax.Array:
        """Q, [N, A]."""
        return decode(self.choices.head, self.learner.values(learner, observation_N))

    def loss(self, target: Any, learner: Any, batch: Transition) -> Callable[..., jax.Array]:
        """Of outputs [M, A, K] at the batch's observations, its mean."""
        head, choices = self.choices.head, self.choices
        after = batch.next_observation.astype(jnp.float32)
        best_M = jnp.argmax(self.numbers(learner, after), -1)
        next_MK = _taken(self.learner.values(target, after), best_M)
        weight_M = choices.discount * (1 - batch.terminated.astype(jnp.float32))
        if choices.projected:
            encoded_MK = projected(jax.nn.softmax(next_MK), batch.reward, weight_M, support(head))
        else:
            target_M = batch.reward + weight_M * decode(head, next_MK)

        def of(outputs_MAK: jax.Array) -> jax.Array:
            taken_MK = _taken(outputs_MAK, batch.action)
            if choices.projected:
                losses_M = -jnp.sum(encoded_MK * jax.nn.log_softmax(taken_MK), -1)
            else:
                losses_M = value_loss(head, taken_MK, target_M)
            return jnp.mean(losses_M)

        return of

    def _once(self, state: DQNState, key: jax.Array) -> tuple[DQNState, jax.Array]:
        choices = self.choices
        act_key, step_key, *update_keys = jax.random.split(
            key, 2 + choices.environments // choices.every
        )
        action_B = self._act(state, act_key)
        keys = jax.random.split(step_key, choices.environments)
        environments, stepped = jax.vmap(self.environment.step)(keys, state.environments, action_B)
        buffer = added(
            state.buffer,
            Transition(
                state.observation_B,
                action_B,
                stepped.reward,
                stepped.terminated,
                stepped.final_observation,
            ),
        )
        state = state._replace(
            buffer=buffer,
            environments=environments,
            observation_B=stepped.observation,
            episodes=counted(
                state.episodes, stepped.reward, stepped.terminated | stepped.truncated
            ),
            steps=state.steps + choices.environments,
        )
        losses = []
        for update_key in update_keys:
            state, loss = self._update(state, update_key)
            losses.append(loss)
        return state, jnp.mean(jnp.stack(losses))

    def _act(self, state: DQNState, key: jax.Array) -> jax.Array:
        """Epsilon-greedy, int32 [B]."""
        choices, (random_key, which_key) = self.choices, jax.random.split(key)
        q_BA = self.numbers(state.learner, state.observation_B)
        share = jnp.minimum(state.steps.astype(jnp.float32) / choices.falling, 1)
        epsilon = choices.first_epsilon + share * (choices.last_epsilon - choices.first_epsilon)
        random_B = jax.random.randint(random_key, q_BA.shape[:1], 0, q_BA.shape[1])
        explores_B = jax.random.uniform(which_key, q_BA.shape[:1]) < epsilon
        return jnp.where(explores_B, random_B, jnp.argmax(q_BA, -1)).astype(jnp.int32)

    def _update(self, state: DQNState, key: jax.Array) -> tuple[DQNState, jax.Array]:
        """One update, once there are enough transitions."""
        batch = drawn(state.buffer, key, self.choices.batch)
        loss = self.loss(state.target, state.learner, batch)
        learner, value = self.learner.step(
            state.learner, loss, batch.observation.astype(jnp.float32)
        )
        begun = state.buffer.full >= self.choices.begin
        learner = _where(begun, learner, state.learner)
        updates = state.updates + begun.astype(jnp.int32)
        renewed = begun & (updates % self.choices.renew == 0)
        target = _where(renewed, learner, state.target)
        learner = _where(
            renewed, self.learner.renewed(learner, jax.random.fold_in(key, 1)), learner
        )
        state = state._replace(learner=learner, target=target, updates=updates)
        return state, jnp.where(begun, value, 0)


def projected(
    p_MK: jax.Array, reward_M: jax.Array, weight_M: jax.Array, support_K: jax.Array
) -> jax.Array:
    """C51: the distribution of r + weight Z, Z of probabilities p on the support, projected onto
    the support: what falls between two bins goes to both, what falls beyond the ends to them."""
    moved_MK = reward_M[:, None] + weight_M[:, None] * jnp.broadcast_to(support_K, p_MK.shape)
    return jnp.einsum("mk,mkj->mj", p_MK, two_hot(moved_MK, support_K))


def _taken(outputs_MAK: jax.Array, action_M: jax.Array) -> jax.Array:
    return jnp.take_along_axis(outputs_MAK, action_M[:, None, None], 1)[:, 0]


def _where(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), one, other)
