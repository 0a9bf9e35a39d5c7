# SPDX-License-Identifier: Apache-2.0
"""Adapters beside the linear layers: the weights with them added, one for all rows or one a row."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.adapters import (
    A,
    B,
    adapted_layers,
    attach,
    flat_adapters,
    fresh_adapters,
    low_rank,
)
from recurrentgemma.griffin import Griffin
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import Flat, flat_params, from_flat_params
from tests.drawn import normal
from tests.recurrentgemma.models import GRIFFIN, call, make, tokens

LAYERS = [name.removesuffix("/weight") for name in param_shapes(GRIFFIN) if "/weight" in name]
RANK, SCALE = 3, 0.5


@functools.cache
def adapters(seed: int, kind: str = "") -> Flat:
    """Of all linear layers, or of a kind."""
    flat, weights = {}, flat_params(make("griffin"))
    for number, layer in enumerate(name for name in LAYERS if kind in name):
        outputs, inputs = weights[f"{layer}/weight"].shape
        first = 2000 * seed + 2 * number
        flat[f"{layer}/{A}"] = normal(first, (inputs, RANK)) / 6
        flat[f"{layer}/{B}"] = normal(first + 1, (RANK, outputs)) / 2
    return flat


def added(flat: Flat) -> Griffin:
    """The plain model whose weights have the adapters in them."""
    weights = flat_params(make("griffin"))
    for layer in {name.rpartition("/")[0] for name in flat}:
        weights[f"{layer}/weight"] += SCALE * (flat[f"{layer}/{A}"] @ flat[f"{layer}/{B}"]).T
    return from_flat_params(GRIFFIN, weights)


def scanned(flat: Flat) -> Griffin:
    config = dataclasses.replace(GRIFFIN, scan_layers=True, remat="block")
    return attach(from_flat_params(config, flat_params(make("griffin"))), flat, scale=SCALE)


@pytest.mark.parametrize("kind", ["", pytest.param("ffw_up", marks=pytest.mark.slow)])
def test_one_for_all_rows(kind: str):
    flat, ids = adapters(0, kind), tokens(0, 2, 20)
    expected, _ = call(added(flat), ids)
    base, _ = call(make("griffin"), ids)
    assert float(jnp.abs(expected - base).max()) > 0.1
    for model in (attach(make("griffin"), flat, scale=SCALE), scanned(flat)):
        np.testing.assert_allclose(call(model, ids)[0], expected, atol=2e-5)
        first, state = call(model, ids[:, :7])
        second, _ = call(model, ids[:, 7:], state)
        np.testing.assert_allclose(jnp.concatenate([first, second], 1), expected, atol=2e-5)
        again = flat_adapters(model)
        assert again.keys() == flat.keys()
        for name, array in flat.items():
            np.testing.assert_array_equal(again[name], array)
    np.testing.assert_array_equal(call(make("griffin"), ids)[0], base)  # it is left alone


def test_one_a_row():
    """Each row of a batch is as its adapter gives it alone; one of them is no adapter at all."""
    several = [adapters(1), adapters(2), jax.tree.map(jnp.zeros_like, adapters(0))]
    rows = {name: jnp.stack([flat[name] for flat in several]) for name in several[0]}
    ids = tokens(1, 3, 12)
    for model in (attach(make("griffin"), rows, scale=SCALE), scanned(rows)):
        logits, _ = call(model, ids)
        for row, flat in enumerate(several):
            alone, _ = call(attach(make("griffin"), flat, scale=SCALE), ids[row : row + 1])
            np.testing.assert_allclose(logits[row], alone[0], atol=2e-5)
    np.testing.assert_allclose(logits[2], call(make("griffin"), ids)[0][2], atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rows_gradient_is_its_own(dtype: str):
    x_BTI = normal(0, (2, 5, 8)).astype(dtype)
    a_BIR, b_BRJ = normal(1, (2, 8, 3)), normal(2, (2, 3, 6))

    def summed(x, a, b):
        return low_rank(x, a, b, name="proj_k", sums=False).astype(jnp.float32).sum()

    of_both = jax.grad(summed, argnums=(1, 2))(x_BTI, a_BIR, b_BRJ)
    for row in range(2):
        alone = jax.grad(summed, argnums=(1, 2))(x_BTI[row], a_BIR[row], b_BRJ[row])
        for whole, part in zip(of_both, alone, strict=True):
            np.testing.assert_allclose(whole[row], part, rtol=1e-5 if dtype == "float32" else 2e-2)


def test_they_can_be_trained_without_qwix():
    """As an online adapter is: the gradient is of the adapters alone."""
    model = attach(make("griffin"), adapters(0), scale=SCALE)
    graphdef, trained, frozen = nnx.split(model, nnx.LoRAParam, ...)
    ids = tokens(2, 2, 9)
    weights, positions = jnp.ones((2, 8)), jnp.broadcast_to(jnp.arange(8), (2, 8))
    batch = Batch(ids[:, :-1], ids[:, 1:], weights, positions)

    @jax.jit
    @jax.grad
    def gradient(trained):
        return next_token_loss(nnx.merge(graphdef, trained, frozen), batch)[0]

    grads = gradient(trained)
    assert jax.tree.structure(grads) == jax.tree.structure(trained)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads))


def test_fresh_ones_change_nothing_and_follow_from_seed_and_name():
    lora, ids = LoraConfig(rank=2, layers=r".*/ffw_(up|down)"), tokens(0, 1, 8)
    assert adapted_layers(GRIFFIN, lora)["blocks.4/mlp_block/ffw_up"] == (48, 32)
    flat = fresh_adapters(GRIFFIN, lora, seed=3)
    assert len(flat) == 2 * 2 * GRIFFIN.num_layers
    expected, _ = make("griffin")(ids)
    model = attach(make("griffin"), flat, scale=lora.scale)
    np.testing.assert_array_equal(call(model, ids)[0], call(make("griffin"), ids)[0])
    np.testing.assert_allclose(call(model, ids)[0], expected, atol=2e-5)
    name = f"blocks.1/mlp_block/ffw_up/{A}"
    fewer = fresh_adapters(GRIFFIN, LoraConfig(rank=2, layers=".*/ffw_up"), seed=3)
    np.testing.assert_array_equal(fewer[name], flat[name])
    assert not np.array_equal(flat[name], flat[name.replace("1", "2", 1)])
    assert not np.array_equal(flat[name], fresh_adapters(GRIFFIN, lora, seed=4)[name])


def test_what_cannot_be():
    flat, layer = adapters(0), "blocks.0/mlp_block/ffw_up"
    a, b = flat[f"{layer}/{A}"], flat[f"{layer}/{B}"]
    model = make("griffin")
    for wrong, message in (
        ({f"{layer}/{A}": a}, f"adapter '{layer}/{B}' is not one of a pair"),
        (
            {f"{layer}/{A}": a, f"{layer}/{B}": b[:2]},
            r"\(32, 3\) and \(2, 48\) do not fit",
        ),
        ({f"{layer}/{A}": a.T, f"{layer}/{B}": b}, r"do not fit '.*' \(48, 32\): expected \(32, r"),
        ({f"{layer}/{A}": a, f"{layer}/{B}": b[None]}, "do not fit"),
        ({f"embedder/{A}": a, f"embedder/{B}": b}, "of 'embedder', which is no linear layer"),
    ):
        with pytest.raises(ValueError, match=message):
            attach(model, wrong, scale=SCALE)
    config = dataclasses.replace(GRIFFIN, num_layers=6, scan_layers=True)
    deep = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"blocks.0/.* has adapters and blocks.3/.*, stacked with"):
        attach(deep, {f"{layer}/{A}": a, f"{layer}/{B}": b}, scale=SCALE)
