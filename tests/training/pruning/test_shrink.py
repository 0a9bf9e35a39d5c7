# SPDX-License-Identifier: Apache-2.0
"""The proximal step, zero as a state that no gradient leaves, and noise on living units only."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from recurrentgemma.losses import loss_and_state
from recurrentgemma.params import by_path, flat_params, from_flat_params, unstack
from recurrentgemma.sharding import MeshConfig, make_mesh, shardings
from tests.drawn import untrained
from tests.recurrentgemma.models import GRIFFIN
from tests.training.test_step import golden_batch
from training.configs import TrainConfig
from training.optim import make_optimizer
from training.pruning.config import PruneConfig
from training.pruning.shrink import (
    UNIT_AXES,
    live_noise,
    measure_zero_units,
    shrinking,
    unit_norms,
)
from training.step import init_train_state, make_train_step

CONFIG = dataclasses.replace(GRIFFIN, num_layers=4)  # a group, and a tail of one
SCANNED = dataclasses.replace(CONFIG, scan_layers=True)


def norms(flat, layer: int) -> np.ndarray:
    return np.asarray(
        unit_norms({name: flat[f"blocks.{layer}/mlp_block/{name}"] for name in UNIT_AXES})[0]
    )


def shrunk(config, *, penalty: float, noise: float = 0.0, grad: float = 0.0) -> tuple[Any, Any]:
    """The parameters by canonical name, before and after one update of SGD at a rate of 1."""
    flat = flat_params(untrained(CONFIG))
    params = nnx.state(from_flat_params(config, flat), nnx.Param)
    prune = PruneConfig(penalty=penalty, schedule="constant", noise=noise)
    rate = optax.constant_schedule(1.0)
    tx = shrinking(optax.sgd(1.0), prune, config, steps=10, learning_rate=rate, seed=3)
    grads = jax.tree.map(lambda x: jnp.full_like(x, grad), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    after: Any = optax.apply_updates(params, updates)
    return unstack(config, by_path(params)), unstack(config, by_path(after))


def test_a_unit_s_norm_falls_by_the_threshold_and_ends_at_zero():
    before, after = shrunk(CONFIG, penalty=0.11)
    threshold = 0.11 * np.sqrt(3 * CONFIG.width + 2)
    for layer in range(CONFIG.num_layers):
        expected = np.maximum(norms(before, layer) - threshold, 0)
        assert 0 < np.mean(expected == 0) < 1
        np.testing.assert_allclose(norms(after, layer), expected, atol=2e-6)
        dead = norms(after, layer) == 0
        np.testing.assert_array_equal(dead, expected == 0)
    others = [name for name in before if "/mlp_block/" not in name or name.endswith("down/bias")]
    for name in others:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_scanned_layers_are_drawn_alike():
    for options in ({"penalty": 0.08}, {"penalty": 0.01, "noise": 1e-3, "grad": 1e-3}):
        (_, one), (_, two) = shrunk(CONFIG, **options), shrunk(SCANNED, **options)
        for name, array in one.items():
            np.testing.assert_allclose(array, two[name], atol=1e-6, err_msg=name)


def test_on_a_mesh_it_is_the_same():
    """Units and width divided over devices: the same steps, the same noise."""
    params = nnx.state(untrained(CONFIG), nnx.Param)
    grads = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), params)
    prune = PruneConfig(penalty=0.11, schedule="constant", noise=1e-3)
    rate = optax.constant_schedule(1.0)
    tx = shrinking(optax.sgd(1.0), prune, CONFIG, steps=10, learning_rate=rate, seed=3)
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    places = shardings(mesh, params)
    expected, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    there = [jax.device_put(tree, places) for tree in (grads, params)]
    got, _ = jax.jit(tx.update)(there[0], tx.init(there[1]), there[1])
    names = by_path(there[1])
    assert len(names["blocks/0/mlp_block/ffw_up/weight"].sharding.device_set) == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)


def test_no_gradient_leaves_zero(small: TrainConfig):
    """All that a zero unit is made of has a gradient of exactly zero; the others have another."""
    model = untrained(small.model)
    flat = dict(flat_params(model))
    for name, axis in UNIT_AXES.items():
        for layer in range(small.model.num_layers):
            whole = f"blocks.{layer}/mlp_block/{name}"
            index = (slice(None), slice(0, 5)) if axis == -1 and flat[whole].ndim == 2 else slice(5)
            flat[whole] = flat[whole].at[index].set(0)
    graphdef, params = nnx.split(from_flat_params(small.model, flat), nnx.Param)

    def loss(params):
        return loss_and_state(nnx.merge(graphdef, params), golden_batch(), None)[0]

    by_paths = by_path(jax.jit(jax.grad(loss))(params))
    grads = unstack(small.model, by_paths)
    for layer in range(small.model.num_layers):
        got = norms(grads, layer)
        assert (got[:5] == 0).all()
        assert (got[5:] > 0).all()
    noise = live_noise(by_paths, small.model, jax.random.key(0), jnp.ones(()))
    for layer in range(small.model.num_layers):
        drawn = norms(unstack(small.model, noise), layer)
        assert (drawn[:5] == 0).all()
        assert (drawn[5:] > 0).all()


def test_units_die_while_a_model_trains_and_stay_dead(small: TrainConfig):
    graphdef, params = nnx.split(untrained(small.model), nnx.Param)
    prune = PruneConfig(penalty=0.8, noise=5e-5, span=1.0)
    rate = optax.constant_schedule(1e-2)
    optimizer = make_optimizer(small.optimizer, steps=60)
    tx = shrinking(optimizer, prune, small.model, steps=60, learning_rate=rate, seed=0)
    train_step = make_train_step(graphdef, tx, measure=measure_zero_units)
    train_state, shares = init_train_state(params, tx), []
    for _ in range(60):
        train_state, metrics = train_step(train_state, golden_batch())
        shares.append(float(metrics["zero_units"]))
    assert shares[0] == 0
    assert 0.2 < shares[-1] < 1, shares
    assert np.isfinite(float(metrics["loss"]))
    assert shares[-1] == pytest.approx(max(shares), abs=0.02)
