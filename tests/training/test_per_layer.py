# SPDX-License-Identifier: Apache-2.0
"""A train state by canonical name and back; test_run.py has it over meshes and through the disk."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from recurrentgemma.parameters import param_shapes
from tests.drawn import untrained
from tests.training.small_rows import CONFIG
from training.per_layer import stacked, unstacked


@pytest.mark.parametrize("scanned", [False, True])
def test_there_and_back(scanned: bool):
    config = dataclasses.replace(CONFIG, num_layers=5, scan_layers=scanned)
    params = nnx.state(untrained(config), nnx.Param)
    tree = (params, optax.adam(1e-3).init(params), {"other": np.arange(3)})
    flat = unstacked(tree, config)
    for arrays in (flat[0], flat[1][0].mu, flat[1][0].nu):
        assert {name: array.shape for name, array in arrays.items()} == param_shapes(config)
    assert flat[2] is not None
    again = stacked(flat, tree, config)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(leaf, other)
