# SPDX-License-Identifier: Apache-2.0
"""MLP and CNN: their shapes, and which rows read which unit."""

import jax
import numpy as np
import pytest

from tests.drawn import normal
from training.recipes.vision.mlp import CNNConfig, MLPConfig, Reader, readers
from training.recipes.vision.network import Network

SHAPE = (7, 6, 2)
CONFIGS = [MLPConfig(widths=(5, 4)), CNNConfig(channels=(3, 4), widths=(5,))]


def test_the_layers_read_each_other():
    assert readers(CONFIGS[0], SHAPE) == {
        "hidden_0": Reader("hidden_1", 1),
        "hidden_1": Reader("head", 1),
    }
    assert readers(CONFIGS[1], SHAPE) == {
        "hidden_0": Reader("hidden_1", 1),
        "hidden_1": Reader("hidden_2", 4),  # 7 x 6 -> 4 x 3 -> 2 x 2
        "hidden_2": Reader("head", 1),
    }


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_unit_whose_readers_are_zero_is_not_read(config):
    network = Network(config, image_shape=SHAPE, outputs=3)
    params, stats = network.init(jax.random.key(0))
    x = normal(1, (2, *SHAPE))
    apply = jax.jit(network.apply)
    for layer, (reader, rows) in readers(config, SHAPE).items():
        inner = "conv" if "conv" in params[layer] else "linear"
        outer = params[reader] if reader == "head" else None
        name = "conv" if outer is None and "conv" in params[reader] else "linear"
        target = outer if outer is not None else params[reader][name]
        kernel = np.array(target["kernel"])
        units = params[layer][inner]["bias"].shape[0]
        assert kernel.shape[-2] == units * rows
        kernel[..., 1::units, :] = 0
        changed = {"kernel": jax.numpy.asarray(kernel), "bias": target["bias"]}
        unread = {**params, reader: changed if reader == "head" else {name: changed}}
        moved_bias = params[layer][inner]["bias"].at[1].add(10.0)
        moved = {
            **unread,
            layer: {inner: {**params[layer][inner], "bias": moved_bias}},
        }
        np.testing.assert_array_equal(
            apply(unread, stats, x).outputs_BO, apply(moved, stats, x).outputs_BO
        )
        read = {**params, layer: moved[layer]}
        assert np.abs(apply(read, stats, x).outputs_BO - apply(params, stats, x).outputs_BO).max()
