# SPDX-License-Identifier: Apache-2.0
"""Networks of agents: convolutions without padding and dense layers, with PyTorch's initial values.

    NATURE   the one of DQN (Mnih et al., 2015), for Atari
    MINATAR  a convolution of 16 channels and a layer of 128 (Young and Tian, 2019)

Vectors are images of shape (1, 1, D), which vision/mlp.py's MLPConfig takes. The papers' agents
begin with PyTorch's default values, which `torch_default` gives a network's parameters.
"""

import dataclasses
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma.errors import UserError
from training.recipes.vision.layers import (
    ACTIVATIONS,
    Dense,
    Hidden,
    Outputs,
    Style,
    convolved_by_products,
)
from training.recipes.vision.network import Params

STYLE = Style()


class ConvLayer(NamedTuple):
    """Channels, side of the kernel, stride."""

    units: int
    size: int
    stride: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Convolutions without padding, then dense layers of these widths. products: compute them as
    matrix products, which vmap over seeds wants (vision/layers.py)."""

    layers: tuple[ConvLayer, ...]
    widths: tuple[int, ...]
    style: Style = STYLE
    products: bool = True
    kind: str = "conv"

    def __post_init__(self) -> None:
        if self.style.norm != "none":
            raise UserError(
                f"norm={self.style.norm!r} in a network of convolutions without padding, which has "
                "none: vision/mlp.py's CNNConfig has"
            )

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _Conv(self, image_shape, outputs, rngs=rngs)


class _Conv(nnx.Module):
    def __init__(
        self, config: ConvConfig, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs
    ):
        height, width, inputs = image_shape
        self.config = config
        for number, (units, size, stride) in enumerate(config.layers):
            conv = nnx.Conv(
                inputs,
                units,
                (size, size),
                strides=stride,
                padding="VALID",
                conv_general_dilated=convolved_by_products
                if config.products
                else jax.lax.conv_general_dilated,
                rngs=rngs,
            )
            setattr(self, f"conv_{number}", conv)
            height, width = (height - size) // stride + 1, (width - size) // stride + 1
            inputs = units
        inputs = prod((height, width, inputs))
        for number, units in enumerate(config.widths):
            setattr(self, f"hidden_{number}", Dense(inputs, units, config.style, rngs=rngs))
            inputs = units
        self.head = nnx.Linear(inputs, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> Outputs:
        hidden, activation = {}, ACTIVATIONS[self.config.style.activation]
        for number in range(len(self.config.layers)):
            z = getattr(self, f"conv_{number}")(x)
            hidden[f"conv_{number}"] = Hidden(z, activation(z))
            x = hidden[f"conv_{number}"].a
        x = x.reshape(len(x), -1)
        for number in range(len(self.config.widths)):
            hidden[f"hidden_{number}"] = getattr(self, f"hidden_{number}")(x)
            x = hidden[f"hidden_{number}"].a
        return Outputs(self.head(x), x, hidden)


NATURE = ConvConfig(
    layers=(ConvLayer(32, 8, 4), ConvLayer(64, 4, 2), ConvLayer(64, 3, 1)),
    widths=(512,),
    products=False,
)
MINATAR = ConvConfig(layers=(ConvLayer(16, 3, 1),), widths=(128,))


def torch_default(params: Params, key: jax.Array) -> Params:
    """The same tree with PyTorch's default values: kernels and biases uniform within one over the
    square root of the layer's inputs. Other parameters (of norms) stay."""
    layers, structure = jax.tree.flatten(params, is_leaf=_is_layer)
    keys = jax.random.split(key, len(layers))
    return jax.tree.unflatten(structure, [_drawn(*pair) for pair in zip(layers, keys, strict=True)])


def _is_layer(node: Any) -> bool:
    return isinstance(node, dict) and "kernel" in node


def _drawn(layer: Any, key: jax.Array) -> Any:
    if not _is_layer(layer):
        return layer
    bound = float(prod(layer["kernel"].shape[:-1])) ** -0.5
    keys = dict(zip(sorted(layer), jax.random.split(key, len(layer)), strict=True))
    return {
        name: jax.random.uniform(keys[name], x.shape, jnp.float32, -bound, bound)
        for name, x in layer.items()
    }
