# SPDX-License-Identifier: Apache-2.0
"""A multilayer perceptron and a small convolutional network. The names of their layers are
`hidden_0`, ..., `head`; which rows of the next layer read a unit is `readers`."""

import dataclasses
from math import prod
from typing import NamedTuple

import jax
from flax import nnx

from training.recipes.vision.layers import PLAIN, Conv, Dense, Outputs, Style


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """widths: of the hidden layers."""

    kind: str = "mlp"
    widths: tuple[int, ...] = (256, 256)
    style: Style = PLAIN

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _Chain(image_shape, (), self.widths, outputs, self.style, rngs=rngs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """channels: of 3 x 3 convolutions of stride 2. widths: of the dense hidden layers."""

    kind: str = "cnn"
    channels: tuple[int, ...] = (32, 64)
    widths: tuple[int, ...] = (256,)
    style: Style = PLAIN

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _Chain(image_shape, self.channels, self.widths, outputs, self.style, rngs=rngs)


class Reader(NamedTuple):
    """The layer that reads another's units, and how many rows of its kernel (next to last axis)
    each unit has there: the rows i, i + units, i + 2 units, ..."""

    layer: str
    rows_per_unit: int


class _Chain(nnx.Module):
    """Each layer reads the one before."""

    def __init__(
        self,
        image_shape: tuple[int, ...],
        channels: tuple[int, ...],
        widths: tuple[int, ...],
        outputs: int,
        style: Style,
        *,
        rngs: nnx.Rngs,
    ):
        height, width, inputs = image_shape
        self.names = tuple(f"hidden_{i}" for i in range(len(channels) + len(widths)))
        self.convolutions = len(channels)
        for name, units in zip(self.names, channels, strict=False):
            setattr(self, name, Conv(inputs, units, style, stride=2, rngs=rngs))
            height, width, inputs = -(-height // 2), -(-width // 2), units
        inputs = prod((height, width, inputs))
        for name, units in zip(self.names[len(channels) :], widths, strict=True):
            setattr(self, name, Dense(inputs, units, style, rngs=rngs))
            inputs = units
        self.head = nnx.Linear(inputs, outputs, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> Outputs:
        hidden, x = {}, x_BHWC
        for number, name in enumerate(self.names):
            if number == self.convolutions:
                x = x.reshape(len(x), -1)
            hidden[name] = getattr(self, name)(x)
            x = hidden[name].a
        features_BF = x.reshape(len(x), -1)
        return Outputs(self.head(features_BF), features_BF, hidden)


def readers(config: MLPConfig | CNNConfig, image_shape: tuple[int, ...]) -> dict[str, Reader]:
    """Hidden layer -> what reads its units."""
    channels = config.channels if isinstance(config, CNNConfig) else ()
    height, width, _ = image_shape
    for _ in channels:
        height, width = -(-height // 2), -(-width // 2)
    layers = [f"hidden_{i}" for i in range(len(channels) + len(config.widths))]
    positions = [1] * len(layers)
    if channels:
        positions[len(channels) - 1] = height * width  # it is flattened there
    return {
        layer: Reader(reader, count)
        for layer, reader, count in zip(layers, [*layers[1:], "head"], positions, strict=True)
    }
