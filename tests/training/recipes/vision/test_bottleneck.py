# SPDX-License-Identifier: Apache-2.0
"""ResNet-50: its size is the published one, and its layers' shapes."""

import jax
import jax.numpy as jnp

from training.recipes.vision.bottleneck import BottleneckConfig
from training.recipes.vision.network import Network


def shapes(config: BottleneckConfig, side: int, outputs: int):
    network = Network(config, image_shape=(side, side, 3), outputs=outputs)

    def run(key):
        params, stats = network.init(key)
        return params, network.apply(params, stats, jnp.zeros((1, side, side, 3)))

    return jax.eval_shape(run, jax.random.key(0))


def test_resnet50_has_its_published_size():
    params, outputs = shapes(BottleneckConfig(), 224, 1000)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 25_557_032
    assert outputs.hidden["block_0_2"].a.shape == (1, 56, 56, 256)
    assert outputs.features_BF.shape == (1, 2048)


def test_small_images_keep_their_sides_in_the_stem():
    config = BottleneckConfig(
        stem=4, streams=(8, 12), blocks=(1, 1), inner=((2, 3), (5, 6)), large_images=False
    )
    _, outputs = shapes(config, 8, 3)
    hidden = {name: one.a.shape[1:] for name, one in outputs.hidden.items()}
    assert hidden == {
        "stem": (8, 8, 4),
        "block_0_0/first": (8, 8, 2),
        "block_0_0/second": (8, 8, 3),
        "block_0_0": (8, 8, 8),
        "block_1_0/first": (8, 8, 5),
        "block_1_0/second": (4, 4, 6),
        "block_1_0": (4, 4, 12),
    }
