# SPDX-License-Identifier: Apache-2.0
"""Shapes of the agents' networks, and PyTorch's initial values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.rl.networks import MINATAR, NATURE, torch_default
from training.recipes.vision.layers import Style
from training.recipes.vision.network import Network


def shapes(config, image):
    network = Network(config, image_shape=image, outputs=5)
    return jax.eval_shape(lambda key: network.init(key)[0], jax.random.key(0)), network


def test_natures_network_is_the_one_of_dqn():
    params, _ = shapes(NATURE, (84, 84, 4))
    assert params["hidden_0"]["linear"]["kernel"].shape == (3136, 512)
    assert sum(x.size for x in jax.tree.leaves(params)) == 1_686_693


def test_initial_values_are_uniform_within_one_over_the_root_of_the_inputs():
    _, network = shapes(MINATAR, (10, 10, 4))
    params = torch_default(network.init(jax.random.key(0))[0], jax.random.key(1))
    for layer, inputs in ((params["conv_0"], 36), (params["hidden_0"]["linear"], 1024)):
        for name in ("kernel", "bias"):
            size = float(jnp.abs(layer[name]).max())
            assert 0.7 * inputs**-0.5 < size <= inputs**-0.5
    outputs = network.apply(params, {}, jnp.ones((2, 10, 10, 4)))
    assert list(outputs.hidden) == ["conv_0", "hidden_0"]
    np.testing.assert_array_equal(outputs.features_BF, outputs.hidden["hidden_0"].a)


def test_a_norm_is_not_left_out_in_silence():
    with pytest.raises(UserError, match="norm='layer' in a network of convolutions"):
        dataclasses.replace(MINATAR, style=Style("layer"))
