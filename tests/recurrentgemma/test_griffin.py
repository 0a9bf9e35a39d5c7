# SPDX-License-Identifier: Apache-2.0
"""Causality and isolation by gradient, and what scanning the layers does to the program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.griffin import Griffin, for_short_documents
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.params import flat_params
from recurrentgemma.state import AttentionState
from tests.drawn import untrained
from tests.recurrentgemma.models import CONFIGS, WINDOW, call, make, tokens


def influence(model: Griffin, positions: np.ndarray) -> np.ndarray:
    """[T, T]: whether the input embedding of token s (column) moves the output at t (row)."""
    time = positions.shape[1]
    graphdef, params = nnx.split(model)
    x = tokens(0, 1, time)

    def output(x_BTD):
        # The embedding of every token made its own input: lookup of row t in a table of rows.
        changed = nnx.merge(graphdef, params)
        changed.embedder.input_embedding = nnx.Param(x_BTD[0])
        out, _ = changed.hidden(jnp.arange(time)[None], positions=positions)
        return out[0]

    table = model.embedder.input_embedding[...][x]
    jacobian = jax.jit(jax.jacrev(output))(table)
    return np.abs(np.asarray(jacobian)).sum(axis=(1, 2, 4)) > 0


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_no_token_sees_the_future_or_another_document(kind: str):
    where = np.concatenate([np.arange(n) for n in (7, 1, 2, 14)])[None]
    document = np.cumsum(where[0] == 0)
    causal = np.tri(where.shape[1], dtype=bool)
    inside = document[:, None] == document[None]
    seen = influence(make(kind), where)
    np.testing.assert_array_equal(seen, causal & inside)


def test_a_window_reaches_exactly_w_tokens_back():
    config = dataclasses.replace(CONFIGS["griffin"], pattern=("local_attention",), num_layers=1)
    seen = influence(untrained(config), np.arange(3 * WINDOW)[None])
    distance = np.arange(3 * WINDOW)[:, None] - np.arange(3 * WINDOW)[None]
    np.testing.assert_array_equal(seen, (distance >= 0) & (distance <= WINDOW))


@pytest.mark.parametrize("kind", ["griffin", "mqa"])
def test_short_documents_need_no_longer_rings(kind: str):
    model = make(kind)
    short, ids = for_short_documents(model, WINDOW - 2), tokens(0, 2, WINDOW - 2)
    (part, state), (want_part, whole) = call(short, ids[:, :4]), call(model, ids[:, :4])
    after, _ = call(short, ids[:, 4:], state)
    want_after, _ = call(model, ids[:, 4:], whole)
    np.testing.assert_allclose(part, want_part, rtol=0, atol=1e-5)
    np.testing.assert_allclose(after, want_after, rtol=0, atol=1e-5)
    rings = [layer for layer in state.layers if isinstance(layer, AttentionState)]
    assert {ring.keys_BWK.shape[1] for ring in rings} == {WINDOW - 2}
    assert model.config == CONFIGS[kind]
    assert for_short_documents(model, 1000).config == model.config


def training_program(depth: int, scan_layers: bool) -> str:
    config = dataclasses.replace(
        rg.tiny(), num_layers=depth, scan_layers=scan_layers, remat="block"
    )
    abstract = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(abstract, nnx.Param)
    ids = jnp.zeros((1, 64), jnp.int32)
    batch = Batch(ids, ids, jnp.ones((1, 64)), ids)

    def loss(params, batch):
        return next_token_loss(nnx.merge(graphdef, params), batch)[0]

    return jax.jit(jax.grad(loss)).lower(params, batch).as_text()


def test_the_program_of_scanned_layers_does_not_grow_with_depth():
    """26 and 8 layers are the same pattern and the same tail (docs/performance.md has times)."""
    deep, shallow = (len(training_program(depth, True)) for depth in (26, 8))
    assert deep < 1.1 * shallow
    assert len(training_program(14, False)) > 2 * deep  # the measure sees depth when it is there


def test_rematerialisation_keeps_less():
    def kept(remat: str) -> int:
        config = dataclasses.replace(rg.tiny(), num_layers=6, remat=remat)
        abstract = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
        graphdef, params = nnx.split(abstract, nnx.Param)
        x = tokens(0, 2, 129)
        batch = Batch(
            x[:, :-1],
            x[:, 1:],
            jnp.ones((2, 128), jnp.float32),
            jnp.tile(jnp.arange(128)[None], (2, 1)),
        )

        def pullback(params):
            return jax.vjp(lambda p: next_token_loss(nnx.merge(graphdef, p), batch)[0], params)[1]

        residuals = jax.tree.leaves(jax.eval_shape(pullback, params))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)

    nothing, dots, block = kept("none"), kept("dots"), kept("block")
    assert block < dots < nothing


def test_a_model_outside_of_jit_is_the_same_model():
    """It is slow there, and knows values: tests/recurrentgemma/test_inputs.py has its checks."""
    model, x = make("hawk"), tokens(0, 1, 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), model(x), call(model, x)
    )


def test_flat_names_are_in_the_order_of_the_layers():
    names = list(flat_params(make("griffin")))
    assert names[0] == "embedder/input_embedding"
    assert names[-1] == "final_norm/scale"
    assert names[1] == "blocks.0/temporal_pre_norm/scale"
