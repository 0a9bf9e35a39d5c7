# SPDX-License-Identifier: Apache-2.0
"""Random network distillation (Burda et al., 2019): what is new is what a network predicts badly.

    rnd = Curiosity(CuriosityChoices(), frame_shape)
    state = rnd.start(key)
    novelty_N = rnd.novelty(state, state.predictor, frame_N)
    state, reward_TB = rnd.rewards(state, novelty_TB)      # over the deviation of its returns

    novelty = 1/2 |predictor(x) - target(x)|^2     x = clip((frame - mean) / deviation, -5, 5)

The target is drawn once and never trained. Novelty is divided by the running deviation of its own
discounted sums, which go on over the ends of episodes. Of a minibatch a random `share` trains the
predictor. Legend: N frames, T steps, B environments.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from training.recipes.rl.moments import Moments, deviation, extended, no_moments
from training.recipes.rl.networks import NATURE, ConvConfig
from training.recipes.vision.layers import Style
from training.recipes.vision.network import Network

LEAKY = Style(activation="leaky_relu")
FURTHEST = 5.0  # deviations of a pixel
TARGET = dataclasses.replace(NATURE, widths=(), style=LEAKY)
PREDICTOR = dataclasses.replace(NATURE, widths=(512, 512), style=LEAKY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CuriosityChoices:
    """outputs: of both networks. discount: of novelty's sums. share: of a minibatch."""

    target: ConvConfig = TARGET
    predictor: ConvConfig = PREDICTOR
    outputs: int = 512
    discount: float = 0.99
    share: float = 0.25


class CuriosityState(NamedTuple):
    """sum_B: the running discounted sum of each environment's novelty."""

    target: Any
    predictor: Any
    frames: Moments
    sums: Moments
    sum_B: jax.Array


class Curiosity:
    """See the module."""

    def __init__(self, choices: CuriosityChoices, frame_shape: tuple[int, ...]):
        self.choices, self.frame_shape = choices, frame_shape
        self._target, self._predictor = (
            Network(config, image_shape=frame_shape, outputs=choices.outputs)
            for config in (choices.target, choices.predictor)
        )

    def start(self, key: jax.Array, environments: int) -> CuriosityState:
        """Newly initialised."""
        target_key, predictor_key = jax.random.split(key)
        return CuriosityState(
            self._target.init(target_key)[0],
            self._predictor.init(predictor_key)[0],
            no_moments(self.frame_shape),
            no_moments(),
            jnp.zeros(environments),
        )

    def seen(self, state: CuriosityState, frame_N: jax.Array) -> CuriosityState:
        """With these frames in the mean and deviation of pixels."""
        return state._replace(frames=extended(state.frames, frame_N))

    def novelty(self, state: CuriosityState, predictor: Any, frame_N: jax.Array) -> jax.Array:
        """[N], by the predictor's parameters; only they get a gradient."""
        mean, scale = state.frames.mean[None], deviation(state.frames)[None]
        x_N = jnp.clip((frame_N.astype(jnp.float32) - mean) / scale, -FURTHEST, FURTHEST)
        target_NF = jax.lax.stop_gradient(self._target.apply(state.target, {}, x_N).outputs_BO)
        predicted_NF = self._predictor.apply(predictor, {}, x_N).outputs_BO
        return 0.5 * jnp.sum(jnp.square(predicted_NF - target_NF), -1)

    def rewards(
        self, state: CuriosityState, novelty_TB: jax.Array
    ) -> tuple[CuriosityState, jax.Array]:
        """Novelty over the deviation of its sums, with these among them."""

        def step(sum_B: jax.Array, novelty_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            sum_B = self.choices.discount * sum_B + novelty_B
            return sum_B, sum_B

        sum_B, sums_TB = jax.lax.scan(step, state.sum_B, novelty_TB)
        sums = extended(state.sums, sums_TB.reshape(-1))
        return state._replace(sum_B=sum_B, sums=sums), novelty_TB / deviation(sums)

    def loss(
        self, state: CuriosityState, predictor: Any, frame_M: jax.Array, key: jax.Array
    ) -> jax.Array:
        """The mean novelty of a random share of the frames."""
        chosen_M = jax.random.bernoulli(key, self.choices.share, (len(frame_M),))
        novelty_M = self.novelty(state, predictor, frame_M)
        chosen_M = chosen_M.astype(jnp.float32)
        return jnp.sum(novelty_M * chosen_M) / jnp.maximum(jnp.sum(chosen_M), 1)
