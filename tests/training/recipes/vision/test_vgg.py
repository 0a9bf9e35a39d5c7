# SPDX-License-Identifier: Apache-2.0
"""VGG: its shapes at odd sides, its pooling, its size."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.drawn import normal
from training.recipes.vision.network import Network
from training.recipes.vision.vgg import VGGConfig, pooled


def test_pooling_is_that_of_flax():
    for height, width in ((6, 8), (5, 7), (1, 3)):
        x_BHWC = normal(0, (2, height, width, 3))
        expected = nnx.max_pool(x_BHWC, (2, 2), (2, 2), padding="SAME")
        np.testing.assert_array_equal(pooled(x_BHWC), expected)


def test_every_layer_is_there():
    config = VGGConfig(channels=((4, 6), (8,)), widths=(10,), first_stride=2)
    network = Network(config, image_shape=(14, 14, 1), outputs=3)

    def run(key):
        return network.apply(*network.init(key), jnp.zeros((2, 14, 14, 1)))

    outputs = jax.eval_shape(run, jax.random.key(0))
    assert outputs.outputs_BO.shape == (2, 3)
    shapes = {name: hidden.a.shape[1:] for name, hidden in outputs.hidden.items()}
    assert shapes == {
        "conv_0_0": (7, 7, 4),
        "conv_0_1": (7, 7, 6),
        "conv_1_0": (4, 4, 8),
        "dense_0": (10,),
    }


def test_vgg16_has_its_size():
    network = Network(VGGConfig(widths=()), image_shape=(32, 32, 3), outputs=10)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 14_723_136 - 4_224 + 5_130


def test_second_derivatives_are_finite_at_odd_edges():
    """As EarlyCroP takes them: through `max` they were NaN, in compiled programs alone."""
    config = VGGConfig(channels=((4,), (4,)), widths=(8,))
    network = Network(config, image_shape=(14, 14, 1), outputs=2)
    params, stats = network.init(jax.random.key(0))
    x_BHWC = normal(1, (16, 14, 14, 1))

    def loss(params):
        return (network.train(params, stats, x_BHWC)[0].outputs_BO ** 2).mean()

    tangent = jax.jit(lambda p: jax.jvp(jax.grad(loss), (p,), (p,))[1])(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tangent))
