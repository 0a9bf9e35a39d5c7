# SPDX-License-Identifier: Apache-2.0
"""What is measured inside of a Griffin: it is the model's own forward pass, its formulas are the
direct ones, and neither batches, stacked layers nor a mesh change them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.diagnostics import layers
from eval.diagnostics import representation as rep
from eval.diagnostics.interference import row_products
from recurrentgemma import sharding
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.sharded import on_mesh
from recurrentgemma.sharding import P
from tests.drawn import untrained
from tests.training.small_rows import BATCH, CONFIG, TIME, positions_of

THREE = dataclasses.replace(
    CONFIG, num_layers=5, pattern=("recurrent", "local_attention"), scan_layers=True
)


@pytest.fixture(scope="module")
def model() -> Griffin:
    return untrained(THREE)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    tokens_BT, targets_BT = rng.integers(0, 64, (2, BATCH, TIME), np.int32)
    positions_BT = positions_of(0)
    positions_BT[-1, -7:] = -1
    weights_BT = (positions_BT >= 0).astype(np.float32)
    return Batch(*map(jnp.asarray, (tokens_BT, targets_BT, weights_BT, positions_BT)))


def panel(model: Griffin, batch: Batch):
    moments, last_BTD = layers.add_moments(model, layers.no_moments(model.config), batch)
    return moments, layers.measures(moments), last_BTD, row_products(model, last_BTD, batch, 4)


@pytest.fixture(scope="module")
def at_once(model, batch):
    return jax.jit(lambda params: panel(nnx.merge(nnx.graphdef(model), params), batch))(
        nnx.state(model)
    )


def test_it_is_the_models_own_forward_pass(model, batch, at_once):
    """The features at the end are those of model.hidden, and their ranks the direct ones."""
    x_BTD, _ = model.hidden(batch.tokens_BT, positions=batch.positions_BT)
    real_BT = np.asarray(batch.positions_BT) >= 0
    x_MD = np.asarray(x_BTD)[real_BT].astype(np.float64)
    moments, measured, *_ = at_once
    factor_DD = np.asarray(moments.final.factor_DD, np.float64)
    np.testing.assert_allclose(factor_DD.T @ factor_DD, x_MD.T @ x_MD, rtol=1e-4, atol=1e-3)
    assert int(moments.final.count) == real_BT.sum()
    direct = rep.ranks(rep.features_of(jnp.asarray(x_MD, jnp.float32)))
    for name, rank in direct.items():
        assert float(measured[-1][name]) == pytest.approx(float(rank), rel=1e-4), name
    assert len(measured) == 6
    assert "slow_decays" in measured[0]
    assert "slow_decays" not in measured[1]
    assert "gate_std" not in measured[-1]


def test_batches_and_unstacked_layers_give_the_same(model, batch, at_once):
    plain = from_flat_params(
        dataclasses.replace(THREE, scan_layers=False), dict(flat_params(model))
    )
    graphdef, params = nnx.split(plain)
    add = jax.jit(lambda params, *given: layers.add_moments(nnx.merge(graphdef, params), *given))
    moments = layers.no_moments(THREE)
    for rows in (slice(0, 4), slice(4, 8)):
        moments, _ = add(params, moments, Batch(*(x[rows] for x in batch)))
    for got, expected in zip(jax.jit(layers.measures)(moments), at_once[1], strict=True):
        for name, value in expected.items():
            assert float(got[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_a_mesh_gives_the_same(model, batch, at_once):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
    graphdef, params = nnx.split(model)
    rows = 2  # of each of two devices

    def run(params, batch):
        model = nnx.merge(graphdef, params)
        moments, last_BTD = layers.add_moments(model, layers.no_moments(THREE), batch)
        return layers.measures(moments), row_products(model, last_BTD, batch, rows)

    specs = sharding.specs(params)
    got, products_RR = jax.jit(on_mesh(mesh, run, (specs, sharding.BATCH), P()))(params, batch)
    for here, expected in zip(got, at_once[1], strict=True):
        for name, value in expected.items():
            assert float(here[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    taken = [0, 1, 4, 5]
    alone = jax.jit(
        lambda params: row_products(
            nnx.merge(graphdef, params),
            at_once[2][np.array(taken)],
            Batch(*(x[np.array(taken)] for x in batch)),
            4,
        )
    )(params)
    np.testing.assert_allclose(products_RR, alone, rtol=1e-3, atol=1e-5)
