# SPDX-License-Identifier: Apache-2.0
"""The products of rows' gradients are those of gradients taken one by one, of the whole model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.diagnostics import layers
from eval.diagnostics.interference import last_block, row_products
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.params import unstack
from tests.drawn import untrained
from tests.training.small_rows import CONFIG, TIME, positions_of


@pytest.mark.parametrize("layer", ["tail", "group"])
def test_products_of_the_last_blocks_gradients(layer):
    config = dataclasses.replace(CONFIG, num_layers=3 if layer == "tail" else 2, scan_layers=True)
    model = untrained(config)
    rng = np.random.default_rng(0)
    tokens_BT, targets_BT = rng.integers(0, 64, (2, 3, TIME), np.int32)
    positions_BT = positions_of(1)[:3]
    weights_BT = rng.integers(0, 2, (3, TIME)).astype(np.float32)
    batch = Batch(*map(jnp.asarray, (tokens_BT, targets_BT, weights_BT, positions_BT)))
    graphdef, params = nnx.split(model)

    @jax.jit
    def run(params):
        model = nnx.merge(graphdef, params)
        _, last_BTD = layers.add_moments(model, layers.no_moments(config), batch)
        return row_products(model, last_BTD, batch, 3)

    @jax.jit
    def whole(params, row):
        return jax.grad(lambda p: next_token_loss(nnx.merge(graphdef, p), row)[0])(params)

    flat = []
    for number in range(3):
        grads = whole(params, Batch(*(x[number : number + 1] for x in batch)))
        leaves, _ = jax.tree_util.tree_flatten_with_path(grads)
        by_path = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
        by_path = {name.removesuffix("/value"): x for name, x in by_path.items()}
        named = unstack(config, by_path)
        prefix = f"blocks.{config.num_layers - 1}/"
        flat.append(np.concatenate([x.ravel() for n, x in named.items() if n.startswith(prefix)]))
    grads_RP = np.stack(flat)
    np.testing.assert_allclose(run(params), grads_RP @ grads_RP.T, rtol=1e-3, atol=1e-6)
    assert last_block(model).recurrent == (layer == "tail")
