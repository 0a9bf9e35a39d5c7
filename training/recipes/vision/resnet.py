# SPDX-License-Identifier: Apache-2.0
"""ResNet-18 for small images: a 3 x 3 stem, four stages of two basic blocks, the mean over
positions, a linear head (He et al., 2015, with CIFAR's stem).

Each block has a width of its own inside, each stage one of its stream, so that units can be removed
from either.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from training.recipes.vision.layers import (
    ACTIVATIONS,
    BATCH_NORM,
    Conv,
    Hidden,
    Outputs,
    Style,
    convolution,
    norm_of_images,
    normalised,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """streams: channels of each stage's stream. inner: of each block's first convolution, in order
    of the blocks; as its stage's where none is given."""

    kind: str = "resnet18"
    streams: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    inner: tuple[int, ...] | None = None
    style: Style = BATCH_NORM

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _ResNet(self, image_shape[-1], outputs, rngs=rngs)

    def inner_widths(self) -> tuple[int, ...]:
        """Of each block."""
        if self.inner is not None:
            return self.inner
        return tuple(
            width
            for width, count in zip(self.streams, self.blocks, strict=True)
            for _ in range(count)
        )


class BasicBlock(nnx.Module):
    """act(norm(conv(act(norm(conv(x))))) + shortcut(x))."""

    def __init__(
        self, inputs: int, inner: int, units: int, stride: int, style: Style, *, rngs: nnx.Rngs
    ):
        bias = style.norm == "none"
        self.first = Conv(inputs, inner, style, stride=stride, rngs=rngs)
        self.second = convolution(inner, units, size=3, stride=1, bias=bias, rngs=rngs)
        self.second_norm = norm_of_images(units, style.norm, rngs=rngs)
        shortcut = stride != 1 or inputs != units
        conv = {"size": 1, "stride": stride, "bias": bias, "rngs": rngs}
        self.shortcut = convolution(inputs, units, **conv) if shortcut else None
        self.shortcut_norm = norm_of_images(units, style.norm, rngs=rngs) if shortcut else None
        self.style = style

    def __call__(self, x_BHWC: jax.Array) -> tuple[Hidden, Hidden]:
        inner = self.first(x_BHWC)
        carried = x_BHWC
        if self.shortcut is not None:
            carried = normalised(self.shortcut_norm, self.shortcut(x_BHWC))
        z = normalised(self.second_norm, self.second(inner.a)) + carried
        return inner, Hidden(z, ACTIVATIONS[self.style.activation](z))


class _ResNet(nnx.Module):
    def __init__(self, config: ResNetConfig, channels: int, outputs: int, *, rngs: nnx.Rngs):
        self.stem = Conv(channels, config.streams[0], config.style, rngs=rngs)
        names, inner, inputs = [], iter(config.inner_widths()), config.streams[0]
        for stage, (units, count) in enumerate(zip(config.streams, config.blocks, strict=True)):
            for number in range(count):
                names.append(f"block_{stage}_{number}")
                stride = 2 if stage > 0 and number == 0 else 1
                block = BasicBlock(inputs, next(inner), units, stride, config.style, rngs=rngs)
                setattr(self, names[-1], block)
                inputs = units
        self.names = tuple(names)
        self.head = nnx.Linear(inputs, outputs, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> Outputs:
        stream = self.stem(x_BHWC)
        hidden = {"stem": stream}
        for name in self.names:
            inner, stream = getattr(self, name)(stream.a)
            hidden[f"{name}/first"], hidden[name] = inner, stream
        features_BF = jnp.mean(stream.a, axis=(1, 2))
        return Outputs(self.head(features_BF), features_BF, hidden)
