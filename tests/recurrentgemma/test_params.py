# SPDX-License-Identifier: Apache-2.0
"""Parameters by canonical name, from models that hold their layers in either way and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma import params
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import canonical_names, flat_params, from_flat_params
from tests.drawn import untrained
from tests.recurrentgemma.models import GRIFFIN, call, make, tokens

SCANNED = dataclasses.replace(GRIFFIN, num_layers=8, scan_layers=True)  # two groups and two more


def test_canonical_names():
    for path, names in {
        "groups/1/mlp_block/ffw_up": ["blocks.1/mlp_block/ffw_up", "blocks.4/mlp_block/ffw_up"],
        "groups/2": ["blocks.2", "blocks.5"],
        "tail/1/temporal_pre_norm/scale": ["blocks.7/temporal_pre_norm/scale"],
        "final_norm/scale": ["final_norm/scale"],
    }.items():
        assert canonical_names(SCANNED, path) == names
    assert canonical_names(GRIFFIN, "blocks/3/x") == ["blocks.3/x"]


def test_stack_undoes_unstack():
    arrays = {
        "groups/0/a": jnp.arange(6.0).reshape(2, 3),
        "tail/1/a": jnp.ones(3),
        "b/c": jnp.ones(1),
    }
    flat = params.unstack(SCANNED, arrays)
    assert list(flat) == ["blocks.0/a", "blocks.3/a", "blocks.7/a", "b/c"]
    np.testing.assert_array_equal(flat["blocks.3/a"], [3, 4, 5])
    again = params.stack(SCANNED, flat, arrays)
    assert list(again) == list(arrays)
    for path, array in arrays.items():
        np.testing.assert_array_equal(again[path], array)


def test_every_value_comes_back_from_a_scanned_model():
    flat = flat_params(make("griffin"))
    scanned = from_flat_params(dataclasses.replace(GRIFFIN, scan_layers=True), flat)
    again = flat_params(scanned)
    assert list(again) == list(flat)
    for name, array in flat.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_replaced_keeps_the_structure():
    state = nnx.state(untrained(GRIFFIN), nnx.Param)
    flat = params.unstack(GRIFFIN, params.by_path(state))
    other = params.replaced(GRIFFIN, state, {name: array + 1 for name, array in flat.items()})
    assert jax.tree.structure(other) == jax.tree.structure(state)
    arrays = params.by_path(other)
    for path, array in params.by_path(state).items():
        np.testing.assert_array_equal(arrays[path], array + 1)


def test_scanned_and_unrolled_models_share_parameters():
    model = make("griffin")
    scanned = from_flat_params(dataclasses.replace(GRIFFIN, scan_layers=True), flat_params(model))
    assert {k: v.shape for k, v in flat_params(scanned).items()} == param_shapes(GRIFFIN)
    for name, value in flat_params(scanned).items():
        np.testing.assert_array_equal(value, flat_params(model)[name])
    logits, state = call(model, tokens(0, 2, 12))
    scanned_logits, scanned_state = call(scanned, tokens(0, 2, 12))
    np.testing.assert_allclose(scanned_logits, logits, rtol=0, atol=2e-5)
    assert jax.tree.structure(scanned_state) == jax.tree.structure(state)
