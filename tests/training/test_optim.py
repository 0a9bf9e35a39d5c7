# SPDX-License-Identifier: Apache-2.0
"""Which parameters decay, under every name; the schedule; what the optimizer's config refuses."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.griffin import Griffin
from recurrentgemma.parameters import param_shapes
from recurrentgemma.presets import PRESETS, tiny
from recurrentgemma.sharding import parameter_name
from tests.drawn import normal, untrained
from training.optim import (
    OptimConfig,
    decay_mask,
    decays,
    learning_rate_schedule,
    make_optimizer,
)

# Every kind of parameter by the end of its canonical name, and whether it decays.
KINDS = {
    "embedder/input_embedding": False,
    "final_norm/scale": False,
    "temporal_pre_norm/scale": False,
    "channel_pre_norm/scale": False,
    **{f"recurrent_block/linear_{x}/weight": True for x in ("x", "y", "out")},
    **{f"recurrent_block/linear_{x}/bias": False for x in ("x", "y", "out")},
    "recurrent_block/conv_1d/w": False,
    "recurrent_block/conv_1d/b": False,
    "recurrent_block/rg_lru/a_param": False,
    **{f"recurrent_block/rg_lru/{gate}_gate/{x}": False for gate in ("input", "a") for x in "wb"},
    **{f"attention_block/proj_{x}/weight": True for x in ("q", "k", "v", "final")},
    "attention_block/proj_final/bias": False,
    **{f"mlp_block/ffw_{x}/weight": True for x in ("gate", "up", "down")},
    **{f"mlp_block/ffw_{x}/bias": False for x in ("gate", "up", "down")},
}


def expected(name: str) -> bool:
    kind = name.split("/", 1)[1] if name.startswith("blocks") else name
    return KINDS[kind]  # KeyError: a new kind of parameter; say above whether it decays


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_of_every_preset_decays_or_not_as_listed(preset):
    names = param_shapes(PRESETS[preset]())
    assert {name: decays(name) for name in names} == {name: expected(name) for name in names}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_mask_reaches_the_models_own_layout(scan_layers):
    config = dataclasses.replace(tiny(), num_layers=5, scan_layers=scan_layers)
    params = nnx.eval_shape(lambda: nnx.state(Griffin(config, rngs=nnx.Rngs(0)), nnx.Param))
    leaves = jax.tree_util.tree_leaves_with_path(decay_mask(params))
    kinds = set()
    for path, masked in leaves:
        parts = parameter_name(path).split("/")
        kind = "/".join(parts[2:] if parts[0] in ("blocks", "groups", "tail") else parts)
        assert masked is KINDS[kind], path
        kinds.add(kind)
    assert kinds == set(KINDS)


def test_only_linear_weights_shrink_when_all_gradients_are_zero():
    params = {
        "linear_x": {"weight": jnp.ones(3), "bias": jnp.ones(3)},
        "rg_lru": {"w": jnp.ones(3)},
    }
    config = OptimConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    tx = make_optimizer(config, steps=10)
    updates: Any
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["linear_x"]["weight"], -0.1 * 0.5)
    np.testing.assert_array_equal(updates["linear_x"]["bias"], 0.0)
    np.testing.assert_array_equal(updates["rg_lru"]["w"], 0.0)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end():
    config = OptimConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.25)
    schedule = learning_rate_schedule(config, 110)
    rates = np.array([schedule(t) for t in (0, 5, 10, 60, 110, 500)])
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.625, 0.25, 0.25], rtol=1e-6)


def test_wsd_rises_stays_and_falls():
    config = OptimConfig(
        learning_rate=1.0, warmup_steps=10, schedule="wsd", decay_fraction=0.2, final_fraction=0.1
    )
    schedule = learning_rate_schedule(config, 100)
    rates = np.array([schedule(t) for t in (0, 5, 10, 79, 80, 90, 100, 200)])
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 1.0, 1.0, 0.55, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("num_layers", "scan_layers"), [pytest.param(3, False, marks=pytest.mark.slow), (6, True)]
)
def test_muon_takes_the_weights_of_linear_layers_and_nothing_else(num_layers, scan_layers):
    """Its steps of them are orthogonal matrices, each layer's its own, of AdamW's size."""
    config = dataclasses.replace(
        tiny(),
        vocab_size=512,
        width=128,
        mlp_width=384,
        lru_width=128,
        head_dim=32,
        num_layers=num_layers,
        scan_layers=scan_layers,
    )
    params = nnx.state(untrained(config), nnx.Param)
    optim = OptimConfig(learning_rate=1.0, warmup_steps=0, weight_decay=0.0, algorithm="muon")
    tx = make_optimizer(optim, steps=10)
    grads = jax.tree.map(lambda x: normal(x.size, x.shape), params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    leaves = {
        parameter_name(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(updates)
    }
    for name, update in leaves.items():
        if decays(name):
            one = update.reshape(-1, *update.shape[-2:])[-1]
            values = np.linalg.svd(one, compute_uv=False)
            assert values.max() < 2 * np.quantile(values, 0.05)  # but for the least of a square one
            assert np.sqrt(np.mean(np.square(one))) == pytest.approx(0.2, rel=0.2)
        else:
            first = 1 + 0.9 * 0.1 / 0.19  # of AdamW with Nesterov momentum, as optax has it
            assert np.median(np.abs(update)) == pytest.approx(first, rel=1e-3)


def test_an_unknown_algorithm_or_schedule():
    with pytest.raises(ValueError, match="algorithm='sgd': expected one of adamw, muon"):
        OptimConfig(algorithm="sgd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="schedule='step': expected one of cosine, wsd"):
        OptimConfig(schedule="step")  # type: ignore[arg-type]


def test_a_schedule_of_warm_up_only_is_refused():
    with pytest.raises(ValueError, match="warmup_steps=10 leaves nothing of steps=10"):
        learning_rate_schedule(OptimConfig(warmup_steps=10), 10)


def test_large_gradients_are_scaled_to_the_clipping_norm():
    # With eps far above the gradients Adam's step is proportional to them, so clipping shows.
    config = OptimConfig(
        learning_rate=1.0, warmup_steps=0, eps=1.0, weight_decay=0.0, clip_norm=1e-3
    )
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    tx = make_optimizer(config, steps=10)
    grads = {"a": jnp.full(1, 30.0), "b": jnp.full(1, 40.0)}
    updates: Any
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.6e-3, rtol=1e-2)
    np.testing.assert_allclose(updates["b"], -0.8e-3, rtol=1e-2)


@pytest.mark.parametrize("field", ["learning_rate", "beta1", "eps", "weight_decay", "clip_norm"])
def test_values_out_of_range_are_refused(field):
    with pytest.raises(ValueError, match=rf"{field}=-1\.0: expected a value between"):
        OptimConfig(**{field: -1.0})  # type: ignore[arg-type]
