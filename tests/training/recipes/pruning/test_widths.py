# SPDX-License-Identifier: Apache-2.0
"""Removal of dead units leaves every network's outputs as they are, its moments beside them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.drawn import normal
from training.recipes.pruning.widths import (
    is_needed,
    layers_of,
    network_widths,
    parameter_count,
    removed,
    scaled,
    shared_axes,
    silenced,
    with_widths,
)
from training.recipes.vision.bottleneck import BottleneckConfig
from training.recipes.vision.layers import Style
from training.recipes.vision.mlp import CNNConfig, MLPConfig
from training.recipes.vision.network import Network
from training.recipes.vision.resnet import ResNetConfig
from training.recipes.vision.vgg import VGGConfig
from training.recipes.vision.vit import ViTConfig

SHAPE, CLASSES = (8, 8, 2), 3
NETWORKS = {
    "mlp": MLPConfig(widths=(12, 9), style=Style(norm="batch")),
    "cnn": CNNConfig(channels=(6, 8), widths=(10,)),
    "vgg": VGGConfig(channels=((6, 6), (8,)), widths=(10,)),
    "resnet18": ResNetConfig(streams=(6, 8), blocks=(1, 2)),
    "resnet50": BottleneckConfig(stem=6, streams=(8, 12), blocks=(1, 1), large_images=False),
    "vit": ViTConfig(width=8, depth=2, heads=2, style=Style(norm="batch", activation="gelu")),
}


def halves(config) -> dict[str, np.ndarray]:
    """Every second unit of each width, as a mask."""
    return {name: np.arange(units) % 2 for name, units in network_widths(config).items()}


def halved(config):
    """The units that stay, by index, and the config without the others."""
    keep = {name: np.flatnonzero(mask) for name, mask in halves(config).items()}
    return keep, with_widths(config, {name: len(index) for name, index in keep.items()})


def of(config) -> Network:
    return Network(config, image_shape=SHAPE, outputs=CLASSES)


@pytest.mark.parametrize(
    "name",
    [
        *("cnn", "vit"),
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("mlp", "vgg", "resnet18", "resnet50")),
    ],
)
def test_removing_dead_units_changes_nothing(name: str):
    """Two seeds at once. Half of each width is dead, and goes."""
    config = NETWORKS[name]
    shared = shared_axes(config, SHAPE, CLASSES)
    keep, smaller = halved(config)
    masks = {name: jnp.asarray(mask, jnp.float32) for name, mask in halves(config).items()}
    x_BHWC = normal(1, (4, *SHAPE))

    @jax.jit
    def both(keys_S):
        params, stats = jax.vmap(of(config).init)(keys_S)
        params = jax.vmap(lambda tree: silenced(tree, shared, masks))(params)
        index = {name: jnp.tile(jnp.asarray(kept), (2, 1)) for name, kept in keep.items()}
        cut = removed((params, stats), shared, index)
        before = jax.vmap(of(config).apply, in_axes=(0, 0, None))(params, stats, x_BHWC)
        after = jax.vmap(of(smaller).apply, in_axes=(0, 0, None))(cut[0], cut[1], x_BHWC)
        return before, after, cut

    before, after, cut = both(jax.random.split(jax.random.key(0), 2))
    fresh = jax.eval_shape(of(smaller).init, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape[1:], cut) == jax.tree.map(lambda x: x.shape, fresh)
    assert np.abs(before.outputs_BO).max() > 1e-3
    np.testing.assert_allclose(after.outputs_BO, before.outputs_BO, atol=1e-5)
    for width, layers in layers_of(config).items():
        for layer in layers:
            units = before.hidden[layer].a
            assert units.shape[-1] == network_widths(config)[width]
            assert not units[..., masks[width] == 0].any(), (width, layer)


def test_an_optimizer_s_moments_are_cut_as_their_parameters():
    config = NETWORKS["resnet18"]
    shared = shared_axes(config, SHAPE, CLASSES)
    keep, _ = halved(config)

    @jax.jit
    def cut(key):
        params, _ = of(config).init(key)
        state: Any = optax.adamw(1e-3).init(params)
        state = (state[0]._replace(mu=params, count=jnp.int32(7)), *state[1:])
        return removed(state, shared, keep), removed(params, shared, keep)

    state, params = cut(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state[0].mu, params)
    assert state[0].count == 7
    fresh = jax.eval_shape(optax.adamw(1e-3).init, params)
    assert jax.tree.map(lambda x: x.shape, state) == jax.tree.map(lambda x: x.shape, fresh)


def test_a_gate_of_zero_is_a_network_without_the_unit():
    config = NETWORKS["cnn"]  # its last convolution is flattened: a unit has several rows
    shared = shared_axes(config, SHAPE, CLASSES)
    (flattened,) = (axis for axis in shared["hidden_1"] if axis.reads)
    assert flattened.repeats == 4
    keep, smaller = halved(config)
    gates = {name: jnp.asarray(mask, jnp.float32) for name, mask in halves(config).items()}
    x_BHWC = normal(1, (4, *SHAPE))

    @jax.jit
    def both(key):
        params, stats = of(config).init(key)
        gated = of(config).apply(scaled(params, shared, gates), stats, x_BHWC)
        cut = of(smaller).apply(removed(params, shared, keep), stats, x_BHWC)
        return gated.outputs_BO, cut.outputs_BO

    np.testing.assert_allclose(*both(jax.random.key(0)), atol=1e-5)


def test_sizes_and_what_is_needed():
    config = MLPConfig(widths=(12, 9))
    assert parameter_count(config, SHAPE, CLASSES) == 128 * 12 + 12 + 12 * 9 + 9 + 9 * 3 + 3
    assert is_needed(config, "hidden_0")
    assert not is_needed(NETWORKS["resnet18"], "block_0_0/first")
    assert is_needed(NETWORKS["resnet18"], "stream_0")
    assert not is_needed(NETWORKS["vit"], "block_0")
    for network in NETWORKS.values():
        widths = {name: units + 1 for name, units in network_widths(network).items()}
        assert network_widths(with_widths(network, widths)) == widths
