# SPDX-License-Identifier: Apache-2.0
"""Convolution by products is convolution; norms stand before the activation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.vision.layers import LEAK, Conv, Dense, Style, convolved_by_products


@pytest.mark.parametrize(
    ("size", "stride", "padding", "side"),
    [(3, 1, "SAME", 5), (3, 2, "SAME", 6), (1, 2, "SAME", 5), (2, 1, ((1, 0), (0, 2)), 4)],
)
def test_a_convolution_by_products_is_a_convolution(size, stride, padding, side):
    x = normal(0, (2, side, side + 1, 3))
    kernel = normal(1, (size, size, 3, 4))

    def both(x, kernel):
        ours = convolved_by_products(x, kernel, (stride, stride), padding)
        theirs = jax.lax.conv_general_dilated(
            *(x, kernel, (stride, stride), padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return ours, theirs

    ours, theirs = both(x, kernel)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    weight = normal(2, ours.shape)
    for argument in (0, 1):
        gradients = [
            jax.grad(lambda *a, k=which: jnp.sum(both(*a)[k] * weight), argument)(x, kernel)
            for which in (0, 1)
        ]
        np.testing.assert_allclose(*gradients, atol=1e-4)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_norm_stands_before_the_activation(norm):
    x_BHWC = 3 + 2 * normal(0, (4, 6, 6, 2))
    layer = Conv(2, 5, Style(norm, "leaky_relu"), rngs=nnx.Rngs(0))
    z, a = layer(x_BHWC)
    axes = (1, 2, 3) if norm == "layer" else (0, 1, 2)
    np.testing.assert_allclose(z.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axes), 1, atol=1e-2)
    np.testing.assert_allclose(a, np.where(z > 0, z, LEAK * z), rtol=1e-6)


def test_without_a_norm_a_layer_is_linear_before_its_activation():
    layer = Dense(3, 4, Style(), rngs=nnx.Rngs(0))
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(layer(2 * x).z, 2 * layer(x).z, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"norm": "rms"}, "none, layer, batch"), ({"activation": "sigmoid"}, "relu, leaky_relu")],
)
def test_a_norm_or_an_activation_that_is_none(given: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        Style(**given)  # type: ignore[arg-type]
