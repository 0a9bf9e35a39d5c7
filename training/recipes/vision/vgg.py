# SPDX-License-Identifier: Apache-2.0
"""VGG-16 for small images, with batch norm (Simonyan and Zisserman, 2014): stages of 3 x 3
convolutions, each followed by the largest of 2 x 2 positions, then dense layers.

Its layers are `conv_0_0`, ..., `dense_0`, `head`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from training.recipes.vision.layers import BATCH_NORM, Conv, Dense, Outputs, Style


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """channels: of the convolutions, by stage. widths: of the dense hidden layers. first_stride: of
    the first convolution; 2 makes everything after it four times cheaper."""

    kind: str = "vgg16"
    channels: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    widths: tuple[int, ...] = (4096,)
    first_stride: int = 1
    style: Style = BATCH_NORM

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _VGG(self, image_shape, outputs, rngs=rngs)


class _VGG(nnx.Module):
    def __init__(
        self,
        config: VGGConfig,
        image_shape: tuple[int, ...],
        outputs: int,
        *,
        rngs: nnx.Rngs,
    ):
        height, width, inputs = image_shape
        stages, stride = [], config.first_stride
        height, width = -(-height // stride), -(-width // stride)
        for stage, channels in enumerate(config.channels):
            names = []
            for number, units in enumerate(channels):
                names.append(f"conv_{stage}_{number}")
                conv = Conv(inputs, units, config.style, stride=stride, rngs=rngs)
                setattr(self, names[-1], conv)
                inputs, stride = units, 1
            stages.append(tuple(names))
            height, width = -(-height // 2), -(-width // 2)
        inputs *= height * width
        for number, units in enumerate(config.widths):
            setattr(self, f"dense_{number}", Dense(inputs, units, config.style, rngs=rngs))
            inputs = units
        self.stages = tuple(stages)
        self.dense = tuple(f"dense_{number}" for number in range(len(config.widths)))
        self.head = nnx.Linear(inputs, outputs, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> Outputs:
        hidden, x = {}, x_BHWC
        for names in self.stages:
            for name in names:
                hidden[name] = getattr(self, name)(x)
                x = hidden[name].a
            x = pooled(x)
        x = x.reshape(len(x), -1)
        for name in self.dense:
            hidden[name] = getattr(self, name)(x)
            x = hidden[name].a
        return Outputs(self.head(x), x, hidden)


def pooled(x_BHWC: jax.Array) -> jax.Array:
    """The largest of each 2 x 2 positions; of fewer at an odd edge. By choice between two: the
    derivative of a largest divides by the number of positions that are equal to it, of which a
    compiled program that rounds differently when it computes x again finds none."""
    _, height, width, _ = x_BHWC.shape
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    x_BHWC = jnp.pad(x_BHWC, odd, mode="edge")
    rows = _larger(x_BHWC[:, ::2], x_BHWC[:, 1::2])
    return _larger(rows[:, :, ::2], rows[:, :, 1::2])


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(a > b, a, b)
