# SPDX-License-Identifier: Apache-2.0
"""The hyperteacher of 2312.15001, section 4.1: classification by a deep teacher made of modules.

The teacher is an MLP of three hidden layers of `width`. Its first and its last layer are fixed;
either hidden-to-hidden layer is a sum of modules, which the code picks for each layer. No biases,
weights divided by the root of the fan-in, inputs uniform in [-1, 1]. Outputs are standardised over
inputs for each task and, by a softmax at temperature 0.1, are soft targets.
Legend: L layers of modules, M modules, H hidden units, I inputs, O outputs, P points.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.modular.method import Data, Task
from training.recipes.modular.support import Support, exactly


class Teacher(NamedTuple):
    """moments_PI: the inputs over which outputs are standardised."""

    first_IH: jax.Array
    theta_LMHH: jax.Array
    last_HO: jax.Array
    moments_PI: jax.Array

    def outputs(self, code_LM: jax.Array, x_PI: jax.Array) -> jax.Array:
        """[P, O], before they are standardised."""
        hidden = jax.nn.relu(_scaled(x_PI, self.first_IH))
        weights_LHH = jnp.einsum("lm,lmhg->lhg", code_LM, self.theta_LMHH)
        for weights_HH in weights_LHH:
            hidden = jax.nn.relu(_scaled(hidden, weights_HH))
        return _scaled(hidden, self.last_HO)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperTeacher:
    """hots: combinations with exactly so many modules are tested, too."""

    support: Support
    inputs: int = 16
    width: int = 32
    outputs: int = 8
    shots: int = 256
    queries: int = 256
    moments: int = 1000
    temperature: float = 0.1
    hots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.support.layers != 2:
            raise UserError(f"{self.support.layers} layers of modules: expected 2")
        if min(self.inputs, self.width, self.shots, self.queries, self.moments) < 1:
            raise UserError(
                f"inputs {self.inputs}, width {self.width}, shots {self.shots}, queries "
                f"{self.queries}, moments {self.moments}: expected at least 1"
            )

    def prepare(self, seed: int) -> dict[str, Any]:
        """Codes by name, [C, L, M]: `train`, `out`, and `K n` of hots.

        Raises UserError: see Support.split.
        """
        split = self.support.split(seed)
        codes = {"train": split.train_CLM, "out": split.out_CLM}
        for hot in self.hots:
            codes[f"K {hot}"] = exactly(self.support.modules, hot, 2)
        return {"codes": codes, "fixed": {}}

    def world(self, fixed: Any, key: jax.Array) -> Teacher:
        """A teacher of normal weights of variance 1."""
        first, theta, last, moments = jax.random.split(key, 4)
        layers, modules, width = self.support.layers, self.support.modules, self.width
        return Teacher(
            jax.random.normal(first, (self.inputs, width)),
            jax.random.normal(theta, (layers, modules, width, width)),
            jax.random.normal(last, (width, self.outputs)),
            _inputs(moments, self.moments, self.inputs),
        )

    def task(self, world: Teacher, code_LM: jax.Array, key: jax.Array, shots: int) -> Task:
        """So many points to adapt to, and `queries` others."""
        raw_PO = world.outputs(code_LM, world.moments_PI)
        mean_O, std_O = raw_PO.mean(0), raw_PO.std(0) + 1e-6

        def drawn(one_key: jax.Array, points: int) -> Data:
            x_PI = _inputs(one_key, points, self.inputs)
            standard_PO = (world.outputs(code_LM, x_PI) - mean_O[None]) / std_O[None]
            return Data(x_PI, jax.nn.softmax(standard_PO / self.temperature), jnp.ones(points))

        support_key, query_key = jax.random.split(key)
        return Task(drawn(support_key, shots), drawn(query_key, self.queries), code_LM.reshape(-1))

    @staticmethod
    def loss(outputs_PO: jax.Array, data: Data) -> jax.Array:
        """KL divergence of the softmax from the soft targets, in nats."""
        entropy_P = jnp.sum(jax.scipy.special.entr(data.y_PO), -1)
        cross_P = -jnp.sum(data.y_PO * jax.nn.log_softmax(outputs_PO), -1)
        return jnp.mean(cross_P - entropy_P)

    @staticmethod
    def scores(outputs_PO: jax.Array, data: Data) -> dict[str, jax.Array]:
        """accuracy: the largest output is the teacher's."""
        right_P = outputs_PO.argmax(-1) == data.y_PO.argmax(-1)
        return {"accuracy": right_P.mean()}


def _inputs(key: jax.Array, points: int, inputs: int) -> jax.Array:
    return jax.random.uniform(key, (points, inputs), minval=-1.0, maxval=1.0)


def _scaled(x_PI: jax.Array, weights_IH: jax.Array) -> jax.Array:
    return x_PI @ weights_IH * np.float32(weights_IH.shape[0] ** -0.5)
