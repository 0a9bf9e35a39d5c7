# SPDX-License-Identifier: Apache-2.0
"""A network with one output head for each stage of RoboticSequence (2402.02868, table 3).

    config = StagesConfig(stages=4)
    network = Network(config, image_shape=(1, 1, 41), outputs=8)
    network.apply(params, {}, x_B11D).outputs_BO     # x[..., 0], the stage, picks the head

Four layers of 256 units with leaky ReLU, the first under a layer norm. The trunk does not see the
stage, so that stages share all of it: that is where one forgets another. `trunk` leaves the heads
out of a tree of parameters, as EWC wants it.

Legend: B batch, D inputs, F features, S stages, O outputs of a head.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from training.recipes.vision.layers import Dense, Hidden, Outputs, Style

FIRST, LATER = Style(norm="layer", activation="leaky_relu"), Style(activation="leaky_relu")
HEAD = "head"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """widths: of the trunk."""

    stages: int
    widths: tuple[int, ...] = (256, 256, 256, 256)
    kind: str = "stages"

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _Stages(self, image_shape[-1], outputs, rngs=rngs)


class _Stages(nnx.Module):
    def __init__(self, config: StagesConfig, numbers: int, outputs: int, *, rngs: nnx.Rngs):
        self.stages, self.outputs = config.stages, outputs
        self.names = tuple(f"hidden_{i}" for i in range(len(config.widths)))
        inputs = numbers - 1
        for number, (name, units) in enumerate(zip(self.names, config.widths, strict=True)):
            style = LATER if number else FIRST
            setattr(self, name, Dense(inputs, units, style, rngs=rngs))
            inputs = units
        self.head = nnx.Linear(inputs, config.stages * outputs, rngs=rngs)

    def __call__(self, x_B11D: jax.Array) -> Outputs:
        x_BD = x_B11D.reshape(len(x_B11D), -1)
        stage_B, x_BF = x_BD[:, 0].astype(jnp.int32), x_BD[:, 1:]
        hidden: dict[str, Hidden] = {}
        for name in self.names:
            hidden[name] = getattr(self, name)(x_BF)
            x_BF = hidden[name].a
        heads_BSO = self.head(x_BF).reshape(len(x_BF), self.stages, self.outputs)
        outputs_BO = jnp.take_along_axis(heads_BSO, stage_B[:, None, None], 1)[:, 0]
        return Outputs(outputs_BO, x_BF, hidden)


def trunk(params: Mapping[str, Any]) -> dict[str, Any]:
    """What stages share."""
    return {name: layer for name, layer in params.items() if name != HEAD}
