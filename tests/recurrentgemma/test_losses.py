# SPDX-License-Identifier: Apache-2.0
"""The loss against its definition over all logits, and that it never holds them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrentgemma as rg
from recurrentgemma import losses
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, hidden_loss, next_token_loss, token_log_probs
from tests.recurrentgemma.models import call, make, tokens


def batch_of(time: int = 40) -> Batch:
    x = tokens(0, 2, time + 1)
    weights = np.random.default_rng(3).uniform(size=(2, time)).astype(np.float32)
    weights[:, :3] = 0
    positions = jnp.concatenate([jnp.arange(25), jnp.arange(time - 25)])
    return Batch(x[:, :-1], x[:, 1:], jnp.asarray(weights), jnp.tile(positions[None], (2, 1)))


def by_definition(model: Griffin, batch: Batch, z_loss: float) -> jax.Array:
    logits, _ = call(model, batch.tokens_BT, positions=batch.positions_BT)
    log_z = jax.nn.logsumexp(logits, -1)
    nll = log_z - jnp.take_along_axis(logits, batch.targets_BT[..., None], -1)[..., 0]
    weighted = batch.weights_BT * (nll + z_loss * jnp.square(log_z))
    return jnp.sum(weighted) / jnp.sum(batch.weights_BT)


@pytest.mark.parametrize(
    ("kind", "z_loss"),  # with and without a soft cap
    [("short", 1e-2), ("mqa", 0.0)],
)
def test_value_and_gradients_are_those_of_all_logits(kind, z_loss, monkeypatch):
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 1)
    monkeypatch.setitem(losses.MIN_CHUNK_TOKENS, "cpu", 32)  # 80 tokens: three chunks, one padded
    batch = batch_of()
    graphdef, params = nnx.split(make(kind), nnx.Param)

    def value_and_grad(loss):
        return jax.jit(jax.value_and_grad(lambda p: loss(nnx.merge(graphdef, p))))(params)

    value, gradients = value_and_grad(lambda m: next_token_loss(m, batch, z_loss=z_loss)[0])
    want, want_gradients = value_and_grad(lambda m: by_definition(m, batch, z_loss))
    assert float(value) == pytest.approx(float(want), rel=1e-6)
    for got, expected in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(want_gradients), strict=True
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * scale)


def test_metrics_and_log_probs_agree():
    model, batch = make("griffin"), batch_of()
    graphdef, params = nnx.split(model)

    @jax.jit
    def run(params):
        model = nnx.merge(graphdef, params)
        loss = next_token_loss(model, batch, z_loss=0.1)
        return loss, token_log_probs(
            model, batch.tokens_BT, batch.targets_BT, positions=batch.positions_BT
        )

    (loss, metrics), (log_probs, _) = run(params)
    nll = -np.sum(log_probs * batch.weights_BT) / np.sum(batch.weights_BT)
    assert float(metrics["nll"]) == pytest.approx(float(nll), rel=1e-6)
    assert float(metrics["tokens"]) == pytest.approx(float(np.sum(batch.weights_BT)), rel=1e-6)
    assert loss > metrics["nll"]
    x_BTD, _ = model.hidden(batch.tokens_BT, positions=batch.positions_BT)
    weighted, nll_BT, _ = hidden_loss(model, x_BTD, batch.targets_BT, batch.weights_BT)
    np.testing.assert_allclose(nll_BT, -log_probs, rtol=1e-5)
    assert float(weighted) == pytest.approx(float(nll * np.sum(batch.weights_BT)), rel=1e-5)


def test_weights_of_zero_give_no_loss_and_no_nan():
    model, batch = make("griffin"), batch_of()
    graphdef, params = nnx.split(model)
    batch = batch._replace(weights_BT=jnp.zeros((2, 40)))
    loss, _ = jax.jit(lambda params: next_token_loss(nnx.merge(graphdef, params), batch))(params)
    assert loss == 0


@pytest.mark.parametrize("gradients", [False, True])
def test_no_array_of_all_logits(gradients: bool):
    """In the compiled program for T = 4,096 and 256,000 words, none is a tenth of T x V."""
    config = dataclasses.replace(rg.tiny(), num_layers=1, width=32, mlp_width=32, lru_width=32)
    config = dataclasses.replace(config, num_gate_blocks=1, vocab_size=256_000)
    model = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model, nnx.Param)
    ids = jnp.zeros((1, 4096), jnp.int32)
    batch = Batch(ids, ids, jnp.ones((1, 4096)), ids)

    def loss(params, batch):
        return next_token_loss(nnx.merge(graphdef, params), batch)[0]

    function = jax.grad(loss) if gradients else loss
    memory = jax.jit(function).lower(params, batch).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 4 * 4096 * 256_000 / 3  # three chunks' worth and dE
