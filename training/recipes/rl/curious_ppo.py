# SPDX-License-Identifier: Apache-2.0
"""PPO with random network distillation (curiosity.py): one network, a policy and two values.

    agent = CuriousPPO(CuriousChoices(), observation_shape, policy)
    HostLoop(agent, make, schedule)                      # host_loop.py

    A = extrinsic A_ext + intrinsic A_int     L = L_clip + 1/2 (L_ext + L_int) - entropy H
                                                  + L_predictor + held

As Burda et al. (2019) have it and 2402.02868 (table 2) sets it: rewards of the game end with an
episode, those of novelty do not; neither is standardised. What is new is the last frame of what
comes next. One Adam has all parameters. `only_critic` trains the two values' head and the predictor
alone.

Legend: T steps, B environments, N = T B, M minibatch, A actions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recurrentgemma.errors import UserError
from training.finetuning.advantages import advantages
from training.finetuning.policy_losses import clipped_loss
from training.recipes.rl.curiosity import Curiosity, CuriosityChoices, CuriosityState
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.host_loop import Collected
from training.recipes.rl.networks import NATURE, ConvConfig, torch_default
from training.recipes.rl.ppo import as_floats, flat
from training.recipes.vision.network import Network

NETWORK = dataclasses.replace(NATURE, widths=(256, 448))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CuriousChoices:
    """The defaults are the paper's. minibatches: of an epoch."""

    network: ConvConfig = NETWORK
    curiosity: CuriosityChoices = dataclasses.field(default_factory=CuriosityChoices)
    environments: int = 128
    rollout: int = 128
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 1e-4
    clip: float = 0.1
    entropy: float = 0.001
    discount: float = 0.999
    trace: float = 0.95
    extrinsic: float = 2.0
    intrinsic: float = 1.0
    max_grad_norm: float = 0.5
    only_critic: bool = False

    def __post_init__(self) -> None:
        steps = self.environments * self.rollout
        if steps % self.minibatches:
            raise UserError(
                f"minibatches={self.minibatches} does not divide the {steps:,} steps of a rollout: "
                "choose a number that does"
            )


class CuriousState(NamedTuple):
    """All that is learned."""

    params: Any
    curiosity: CuriosityState
    opt_state: Any


class Kept(NamedTuple):
    """Of a step."""

    log_prob: Any
    value_2: Any


class Sample(NamedTuple):
    """[N, ...] of a rollout. frame: of what comes next."""

    observation: jax.Array
    drawn: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    target_2: jax.Array
    frame: jax.Array


HeldStates = Callable[[Any, jax.Array, Any, jax.Array], jax.Array]
"""(parameters, observation_M, what is beside, the update's number) -> what is added to the loss."""


class CuriousPPO:
    """See the module."""

    def __init__(
        self,
        choices: CuriousChoices,
        observation_shape: tuple[int, ...],
        policy: Categorical,
        *,
        held: HeldStates | None = None,
        beside: Callable[[int], Any] | None = None,
    ):
        self.choices, self.policy, self.held, self.beside = choices, policy, held, beside
        self.network = Network(
            choices.network, image_shape=observation_shape, outputs=policy.outputs + 2
        )
        self.curiosity = Curiosity(choices.curiosity, (*observation_shape[:-1], 1))
        self.tx = optax.chain(
            optax.clip_by_global_norm(choices.max_grad_norm), optax.scale_by_adam()
        )
        self._act, self._update = jax.jit(self._acted), jax.jit(self._updated)

    def start(self, key: jax.Array) -> CuriousState:
        """Newly initialised."""
        params = torch_default(self.network.init(key)[0], key)
        return self.begun(params, key)

    def begun(self, params: Any, key: jax.Array) -> CuriousState:
        """With these parameters, and nothing else yet."""
        curiosity = self.curiosity.start(jax.random.fold_in(key, 1), self.choices.environments)
        return CuriousState(params, curiosity, self.tx.init((params, curiosity.predictor)))

    def seen(self, state: CuriousState, observation_N: Any) -> CuriousState:
        """With these observations in the mean and deviation of frames: before the first update."""
        curiosity = self.curiosity.seen(state.curiosity, jnp.asarray(observation_N)[..., -1:])
        return state._replace(curiosity=curiosity)

    def remembered(self, count: int) -> tuple[()]:
        """Nothing."""
        del count
        return ()

    def judge(self, params: Any, observation_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The policy's outputs [N, A] and both values [N, 2]: of the game, of novelty."""
        outputs = self.network.apply(params, {}, as_floats(observation_N)).outputs_BO
        return outputs[:, :-2], outputs[:, -2:]

    def act(
        self, state: CuriousState, memory: Any, observation_B: Any, first_B: Any, key: jax.Array
    ) -> tuple[Any, Kept, Any]:
        """A step of each environment."""
        del first_B
        drawn_B, kept = self._act(state.params, observation_B, key)
        return drawn_B, jax.device_get(kept), memory

    def update(
        self, state: CuriousState, collected: Collected, key: jax.Array, number: int
    ) -> tuple[CuriousState, dict[str, jax.Array]]:
        """All epochs on a rollout."""
        beside = None if self.beside is None else self.beside(number)
        return self._update(state, collected, beside, key, jnp.int32(number))

    def _acted(
        self, params: Any, observation_B: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Kept]:
        outputs_BA, value_B2 = self.judge(params, observation_B)
        drawn_B = self.policy.sample(outputs_BA, key)
        return drawn_B, Kept(self.policy.log_prob(outputs_BA, drawn_B), value_B2)

    def _updated(
        self, state: CuriousState, collected: Collected, beside: Any, key: jax.Array, number: Any
    ) -> tuple[CuriousState, dict[str, jax.Array]]:
        choices = self.choices
        samples, curiosity, novelty = self._samples(state, collected)
        count = samples.advantage.size

        def minibatch(carried: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
            trained, opt_state = carried
            rows_M, one_key = at
            batch = jax.tree.map(lambda x: x[rows_M], samples)
            grads, losses = jax.grad(self._loss, has_aux=True)(
                trained, curiosity, batch, beside, one_key, number
            )
            # optax raises a float to the power of an int32 counter, which strictness forbids.
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = self.tx.update(grads, opt_state, trained)
            rate = choices.learning_rate
            return (jax.tree.map(lambda x, u: x - rate * u, trained, updates), opt_state), losses

        def epoch(carried: Any, one_key: jax.Array) -> tuple[Any, Any]:
            order = jax.random.permutation(one_key, count).reshape(choices.minibatches, -1)
            return jax.lax.scan(
                minibatch, carried, (order, jax.random.split(one_key, choices.minibatches))
            )

        start = (state.params, curiosity.predictor), state.opt_state
        keys = jax.random.split(key, choices.epochs)
        ((params, predictor), opt_state), losses = jax.lax.scan(epoch, start, keys)
        after = CuriousState(params, curiosity._replace(predictor=predictor), opt_state)
        return after, {**jax.tree.map(jnp.mean, losses), "novelty": novelty}

    def _samples(
        self, state: CuriousState, collected: Collected
    ) -> tuple[Sample, CuriosityState, jax.Array]:
        """What the epochs read; the moments with this rollout; and the mean of its novelty."""
        choices, shape = self.choices, collected.reward.shape
        last_B = jnp.asarray(collected.last_observation)
        frame_N = flat(jnp.concatenate([collected.observation[1:], last_B[None]])[..., -1:])
        curiosity = state.curiosity
        novelty_N = self.curiosity.novelty(curiosity, curiosity.predictor, frame_N)
        curiosity, curious_TB = self.curiosity.rewards(curiosity, novelty_N.reshape(shape))
        last_B2 = self.judge(state.params, last_B)[1]
        value_TB2 = jnp.asarray(collected.kept.value_2)

        def of_head(head: int, reward_TB: Any, done_TB: Any, discount: float) -> jax.Array:
            return advantages(
                reward_TB,
                value_TB2[..., head],
                done_TB,
                last_B2[:, head],
                discount=discount,
                trace=choices.trace,
            )

        nowhere = jnp.zeros(shape, bool)
        game_TB = of_head(0, jnp.asarray(collected.reward), collected.done, choices.discount)
        new_TB = of_head(1, curious_TB, nowhere, choices.curiosity.discount)
        advantage_TB = choices.extrinsic * game_TB + choices.intrinsic * new_TB
        target_TB2 = jnp.stack([game_TB, new_TB], -1) + value_TB2
        samples = Sample(
            flat(jnp.asarray(collected.observation)),
            flat(jnp.asarray(collected.drawn)),
            flat(jnp.asarray(collected.kept.log_prob)),
            flat(advantage_TB),
            flat(target_TB2),
            frame_N,
        )
        return samples, self.curiosity.seen(curiosity, frame_N), jnp.mean(novelty_N)

    def _loss(
        self,
        trained: tuple[Any, Any],
        curiosity: CuriosityState,
        batch: Sample,
        beside: Any,
        key: jax.Array,
        number: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        params, predictor = trained
        if self.choices.only_critic:
            params = only_values(params)
        outputs_MA, value_M2 = self.judge(params, batch.observation)
        log_ratio_M = self.policy.log_prob(outputs_MA, batch.drawn) - batch.log_prob
        clipped = jnp.mean(clipped_loss(log_ratio_M, batch.advantage, self.choices.clip))
        entropy = jnp.mean(self.policy.entropy(outputs_MA, key))
        value = 0.5 * jnp.mean(jnp.sum(jnp.square(value_M2 - batch.target_2), -1))
        predicted = self.curiosity.loss(curiosity, predictor, batch.frame, key)
        named = {
            "policy_loss": clipped,
            "entropy": entropy,
            "value_loss": value,
            "predictor_loss": predicted,
        }
        loss = clipped + value - self.choices.entropy * entropy + predicted
        if self.held is not None:
            named["held_loss"] = self.held(params, batch.observation, beside, number)
            loss += named["held_loss"]
        return loss, {**named, "loss": loss}


def only_values(params: Any) -> Any:
    """The same parameters, of which only the head's columns of both values have a gradient."""
    still = jax.lax.stop_gradient(params)
    head = {
        name: jnp.concatenate([still["head"][name][..., :-2], x[..., -2:]], -1)
        for name, x in params["head"].items()
    }
    return {**still, "head": head}
