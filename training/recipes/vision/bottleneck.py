# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 (He et al., 2015): a stem, four stages of bottleneck blocks, the mean over positions, a
linear head. With ImageNet's stem, 7 x 7 of stride 2 and a pooling, or with CIFAR's, 3 x 3.

Each block has two widths of its own inside, each stage one of its stream.
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
from training.recipes.vision.vgg import pooled


@dataclasses.dataclass(frozen=True, kw_only=True)
class BottleneckConfig:
    """stem: its channels. streams: of each stage's stream. inner: of each block's first and second
    convolution, in order of the blocks; a quarter of its stage's where none is given."""

    kind: str = "resnet50"
    stem: int = 64
    streams: tuple[int, ...] = (256, 512, 1024, 2048)
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    inner: tuple[tuple[int, int], ...] | None = None
    large_images: bool = True
    style: Style = BATCH_NORM

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _Bottlenecks(self, image_shape[-1], outputs, rngs=rngs)

    def inner_widths(self) -> tuple[tuple[int, int], ...]:
        """Of each block."""
        if self.inner is not None:
            return self.inner
        return tuple(
            (width // 4, width // 4)
            for width, count in zip(self.streams, self.blocks, strict=True)
            for _ in range(count)
        )


class _Block(nnx.Module):
    """act(norm(third(second(first(x)))) + shortcut(x)): 1 x 1, 3 x 3 with the stride, 1 x 1."""

    def __init__(
        self,
        inputs: int,
        inner: tuple[int, int],
        units: int,
        stride: int,
        style: Style,
        *,
        shortcut: bool,
        rngs: nnx.Rngs,
    ):
        conv = {"size": 1, "bias": style.norm == "none", "rngs": rngs}
        self.first = Conv(inputs, inner[0], style, size=1, rngs=rngs)
        self.second = Conv(inner[0], inner[1], style, stride=stride, rngs=rngs)
        self.third = convolution(inner[1], units, stride=1, **conv)
        self.third_norm = norm_of_images(units, style.norm, rngs=rngs)
        self.shortcut = convolution(inputs, units, stride=stride, **conv) if shortcut else None
        self.shortcut_norm = norm_of_images(units, style.norm, rngs=rngs) if shortcut else None
        self.style = style

    def __call__(self, x_BHWC: jax.Array) -> tuple[Hidden, Hidden, Hidden]:
        first = self.first(x_BHWC)
        second = self.second(first.a)
        carried = x_BHWC
        if self.shortcut is not None:
            carried = normalised(self.shortcut_norm, self.shortcut(x_BHWC))
        z = normalised(self.third_norm, self.third(second.a)) + carried
        return first, second, Hidden(z, ACTIVATIONS[self.style.activation](z))


class _Bottlenecks(nnx.Module):
    def __init__(self, config: BottleneckConfig, channels: int, outputs: int, *, rngs: nnx.Rngs):
        size, stride = (7, 2) if config.large_images else (3, 1)
        self.large_images = config.large_images
        self.stem = Conv(channels, config.stem, config.style, size=size, stride=stride, rngs=rngs)
        names, inner, inputs = [], iter(config.inner_widths()), config.stem
        for stage, (units, count) in enumerate(zip(config.streams, config.blocks, strict=True)):
            for number in range(count):
                names.append(f"block_{stage}_{number}")
                block = _Block(
                    inputs,
                    next(inner),
                    units,
                    2 if stage > 0 and number == 0 else 1,
                    config.style,
                    shortcut=number == 0,
                    rngs=rngs,
                )
                setattr(self, names[-1], block)
                inputs = units
        self.names = tuple(names)
        self.head = nnx.Linear(inputs, outputs, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> Outputs:
        stream = self.stem(x_BHWC)
        hidden = {"stem": stream}
        x = pooled(stream.a) if self.large_images else stream.a
        for name in self.names:
            first, second, stream = getattr(self, name)(x)
            hidden |= {f"{name}/first": first, f"{name}/second": second, name: stream}
            x = stream.a
        features_BF = jnp.mean(x, axis=(1, 2))
        return Outputs(self.head(features_BF), features_BF, hidden)
