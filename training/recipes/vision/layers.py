# SPDX-License-Identifier: Apache-2.0
"""The hidden layer of every network here: a linear map or a convolution, a norm, an activation.

The norm stands right before the activation (arXiv 2402.18762: "LN on pre-activations"). What a
layer returns is (z, a), pre-activation and activation: diagnostics, losses and pruning look at
both, and XLA removes what nobody uses.

Legend: B batch, H W of an image, C channels, F features of a vector.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma.errors import UserError

LEAK = 0.05  # of DemP's leaky ReLU
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda x: jnp.where(x > 0, x, LEAK * x),
    "gelu": jax.nn.gelu,
    "swish": jax.nn.swish,
    "elu": jax.nn.elu,
    "tanh": jnp.tanh,
}
Activation = Literal["relu", "leaky_relu", "gelu", "swish", "elu", "tanh"]
Norm = Literal["none", "layer", "batch"]


@dataclasses.dataclass(frozen=True)
class Style:
    """Of all hidden layers of a network. Raises UserError: there is no such norm or activation."""

    norm: Norm = "none"
    """layer: over all features of an example, positions included. batch: over the batch and the
    positions, with running statistics."""
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        for name, known in (("norm", get_args(Norm)), ("activation", get_args(Activation))):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name}={value!r}: expected one of {', '.join(known)}")


PLAIN = Style()
BATCH_NORM = Style(norm="batch")


class Hidden(NamedTuple):
    """Pre-activation and activation of a layer, [B, ..., units]."""

    z: jax.Array
    a: jax.Array


class Outputs(NamedTuple):
    """Of a network. features_BF: what its head reads. hidden: by the layer's name."""

    outputs_BO: jax.Array
    features_BF: jax.Array
    hidden: dict[str, Hidden]


class Dense(nnx.Module):
    """act(norm(x W + b)) of vectors."""

    def __init__(self, inputs: int, units: int, style: Style, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, units, rngs=rngs)
        self.norm = _norm(units, style.norm, axes=(-1,), rngs=rngs)
        self.style = style

    def __call__(self, x: jax.Array) -> Hidden:
        return _activated(self.norm, self.linear(x), self.style)


class Conv(nnx.Module):
    """act(norm(conv(x))) of images [B, H, W, C]. Without a norm it has a bias, under one none: the
    norm has its own."""

    def __init__(
        self,
        inputs: int,
        units: int,
        style: Style,
        *,
        rngs: nnx.Rngs,
        size: int = 3,
        stride: int = 1,
    ):
        self.conv = convolution(
            *(inputs, units), size=size, stride=stride, bias=style.norm == "none", rngs=rngs
        )
        self.norm = _norm(units, style.norm, axes=(-3, -2, -1), rngs=rngs)
        self.style = style

    def __call__(self, x_BHWC: jax.Array) -> Hidden:
        return _activated(self.norm, self.conv(x_BHWC), self.style)


def convolution(
    inputs: int, units: int, *, size: int, stride: int, bias: bool, rngs: nnx.Rngs
) -> nnx.Conv:
    """A convolution of same padding, computed by products."""
    return nnx.Conv(
        inputs,
        units,
        (size, size),
        strides=stride,
        use_bias=bias,
        conv_general_dilated=convolved_by_products,
        rngs=rngs,
    )


def norm_of_images(units: int, kind: Norm, *, rngs: nnx.Rngs) -> nnx.Module | None:
    """As Conv's, for a layer that is put together by hand."""
    return _norm(units, kind, axes=(-3, -2, -1), rngs=rngs)


def normalised(norm: Any, x: jax.Array) -> jax.Array:
    """x under that norm, or as it is."""
    return x if norm is None else norm(x)


def _activated(norm: Any, z: jax.Array, style: Style) -> Hidden:
    z = normalised(norm, z)
    return Hidden(z, ACTIVATIONS[style.activation](z))


def _norm(
    units: int, kind: Norm, *, axes: Sequence[int], rngs: nnx.Rngs
) -> nnx.LayerNorm | nnx.BatchNorm | None:
    if kind == "none":
        return None
    if kind == "layer":
        return nnx.LayerNorm(units, reduction_axes=axes, feature_axes=-1, rngs=rngs)
    return nnx.BatchNorm(units, momentum=0.9, rngs=rngs)


def convolved_by_products(
    x_BHWC: jax.Array,
    kernel_HWIO: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` for images and kernels of this layout, as one matrix product over
    the shifted images laid side by side. Under vmap over kernels (seeds, arms) XLA makes of a
    convolution a grouped one, which takes many times longer on CPUs; a product stays one.
    """
    height, width, inputs, units = kernel_HWIO.shape
    sides, strides = x_BHWC.shape[1:3], window_strides
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(sides, (height, width), strides, padding)
    padded = jnp.pad(x_BHWC, ((0, 0), *padding, (0, 0)))
    out = [
        (side + sum(pads) - size) // stride + 1
        for side, pads, size, stride in zip(sides, padding, (height, width), strides, strict=True)
    ]
    shifted = [
        padded[
            :,
            i : i + (out[0] - 1) * strides[0] + 1 : strides[0],
            j : j + (out[1] - 1) * strides[1] + 1 : strides[1],
        ]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(shifted, -1)
    return patches @ kernel_HWIO.reshape(height * width * inputs, units)
