# SPDX-License-Identifier: Apache-2.0
"""Networks as pure functions: vmapped over seeds they are what each is alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.drawn import normal
from training.recipes.vision.layers import Style
from training.recipes.vision.mlp import CNNConfig, MLPConfig
from training.recipes.vision.network import Network, has_convolutions
from training.recipes.vision.resnet import ResNetConfig
from training.recipes.vision.vit import ViTConfig

X_BHWC = normal(9, (4, 8, 8, 1))
CONFIGS: list[Any] = [
    MLPConfig(widths=(8, 6), style=Style("layer")),
    CNNConfig(channels=(4, 6), widths=(8,), style=Style("batch")),
    ResNetConfig(streams=(4, 6), blocks=(1, 1)),
    ViTConfig(width=8, depth=1, heads=2),
]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, marks=[pytest.mark.slow] * (config.kind in ("cnn", "resnet18")))
        for config in CONFIGS
    ],
    ids=lambda config: config.kind,
)
def test_seeds_side_by_side_are_each_alone(config):
    network = Network(config, image_shape=(8, 8, 1), outputs=5)
    keys = jax.random.split(jax.random.key(0), 2)
    params, stats = jax.vmap(network.init)(keys)
    outputs = jax.jit(jax.vmap(network.apply, in_axes=(0, 0, None)))(params, stats, X_BHWC)
    second, stats = jax.tree.map(lambda leaf: leaf[1], (params, stats))
    alone = network.apply(second, stats, X_BHWC)
    np.testing.assert_allclose(outputs.outputs_BO[1], alone.outputs_BO, atol=1e-5)
    assert jnp.abs(outputs.outputs_BO[0] - outputs.outputs_BO[1]).max() > 0.01
    head = second["head"]
    np.testing.assert_allclose(
        alone.features_BF @ head["kernel"] + head["bias"][None], alone.outputs_BO, atol=1e-5
    )


def test_batch_norm_trains_on_the_batch_and_applies_what_ran():
    network = Network(CONFIGS[1], image_shape=(8, 8, 1), outputs=5)
    params, stats = network.init(jax.random.key(0))
    x_BHWC = 5 + X_BHWC
    train = jax.jit(network.train)
    outputs, after = train(params, stats, x_BHWC)
    np.testing.assert_allclose(outputs.hidden["hidden_0"].z.mean((0, 1, 2)), 0, atol=1e-5)
    for _ in range(200):
        _, after = train(params, after, x_BHWC)
    applied = network.apply(params, after, x_BHWC)
    np.testing.assert_allclose(applied.outputs_BO, outputs.outputs_BO, atol=0.15)
    assert jnp.abs(network.apply(params, stats, x_BHWC).outputs_BO - outputs.outputs_BO).max() > 0.3


def test_which_have_convolutions():
    assert not has_convolutions(MLPConfig())
    assert has_convolutions(CNNConfig())
