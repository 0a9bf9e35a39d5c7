# SPDX-License-Identifier: Apache-2.0
"""ResNet-18: the published count of parameters; widths that differ inside and on the stream."""

import jax

from training.recipes.vision.network import Network
from training.recipes.vision.resnet import ResNetConfig


def count(config: ResNetConfig, channels: int = 3) -> int:
    network = Network(config, image_shape=(32, 32, channels), outputs=10)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_resnet_18_has_as_many_parameters_as_published_for_cifar():
    assert count(ResNetConfig()) == 11_173_962


def test_a_block_has_a_width_of_its_own():
    small = ResNetConfig(streams=(4, 6), blocks=(1, 1), inner=(3, 5))
    stem = 9 * 3 * 4 + 8
    first = 9 * 4 * 3 + 6 + 9 * 3 * 4 + 8
    second = 9 * 4 * 5 + 10 + 9 * 5 * 6 + 12 + 4 * 6 + 12
    assert count(small) == stem + first + second + 6 * 10 + 10


def test_without_a_norm_it_has_biases():
    from training.recipes.vision.layers import Style

    plain = ResNetConfig(streams=(4,), blocks=(1,), style=Style())
    network = Network(plain, image_shape=(4, 4, 1), outputs=2)
    params, stats = network.init(jax.random.key(0))
    assert stats == {}
    assert params["stem"]["conv"]["bias"].shape == (4,)
    outputs = network.apply(params, stats, jax.numpy.ones((2, 4, 4, 1)))
    assert set(outputs.hidden) == {"stem", "block_0_0/first", "block_0_0"}
    z, a = outputs.hidden["block_0_0"]
    assert (a == jax.nn.relu(z)).all()
