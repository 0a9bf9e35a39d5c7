# SPDX-License-Identifier: Apache-2.0
"""DPO and KTO in a training step: by definition on whole logits, on a mesh, in parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from recurrentgemma import sharding
from recurrentgemma.losses import Batch
from recurrentgemma.sharded import place
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.training.retention.test_objective import moved
from tests.training.small_rows import CONFIG
from tests.training.test_sharded_step import initial
from training.finetuning.preference_batches import PreferenceBatch, rows_of
from training.finetuning.preference_config import PreferenceConfig
from training.finetuning.preference_losses import Preferred
from training.finetuning.preferences import Answer, Preference
from training.retention.objective import Kept
from training.step import init_train_state, make_train_step

RATE, TIME = 0.1, 16
DPO = PreferenceConfig(beta=0.3, label_smoothing=0.1)
KTO = PreferenceConfig(method="kto", beta=0.3, desirable_weight=2.0, undesirable_weight=0.5)


def examples(config: PreferenceConfig, count: int) -> list[Preference | None]:
    """So many, and one of padding; each prompt and answer has another length."""
    rng = np.random.default_rng(1)

    def ids(length: int) -> np.ndarray:
        return rng.integers(0, CONFIG.vocab_size, length).astype(np.int32)

    pairs: list[Preference | None] = []
    for number in range(count):
        start = 2 + number % 3
        prompt = ids(start)
        signs = (1, -1) if config.method == "dpo" else ((1, -1)[number % 2],)
        answers = [
            Answer(np.concatenate([prompt, ids(3 + n)]), start, s) for n, s in enumerate(signs)
        ]
        pairs.append(Preference(f"file:{number}", tuple(answers)))
    return [*pairs, None]


def batch_of(config: PreferenceConfig, count: int) -> PreferenceBatch:
    rows = rows_of(examples(config, count), prompt_length=TIME // 2, length=TIME // 2)
    return PreferenceBatch(*map(jnp.asarray, rows))


def whole(batch: PreferenceBatch) -> Batch:
    """Prompts and answers in rows from an empty state, padded on the right."""
    positions_BT = np.concatenate([batch.prompt_positions_BP, batch.positions_BT], 1)
    order_BT = np.argsort(positions_BT < 0, axis=1, kind="stable")
    nothing_BP = np.zeros_like(batch.prompt_BP)
    rows = (
        np.concatenate([batch.prompt_BP, batch.tokens_BT], 1),
        np.concatenate([nothing_BP, batch.targets_BT], 1),
        np.concatenate([nothing_BP.astype(np.float32), batch.weights_BT], 1),
        positions_BT,
    )
    return Batch(*(jnp.asarray(np.take_along_axis(x, order_BT, 1)) for x in rows))


def by_definition(config: PreferenceConfig, graphdef: Any, params: Any, start: Any, batch: Batch):
    """The loss of whole logits."""

    def logps(params: Any) -> jax.Array:
        logits, _ = nnx.merge(graphdef, params)(batch.tokens_BT, positions=batch.positions_BT)
        taken = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets_BT[..., None], 2)
        return jnp.sum(taken[..., 0] * jnp.abs(batch.weights_BT), 1)

    ratio_B = logps(params) - logps(start)
    signs_B = jnp.sign(batch.weights_BT.sum(1))
    real_E, beta = jnp.abs(signs_B[::2]), config.beta
    if config.method == "dpo":
        margin_E = beta * (ratio_B[::2] - ratio_B[1::2])
        e = config.label_smoothing
        loss_E = -(1 - e) * jnp.log(jax.nn.sigmoid(margin_E)) - e * jnp.log(
            jax.nn.sigmoid(-margin_E)
        )
    else:
        z = jnp.maximum(jnp.sum(ratio_B[1::2] * real_E) / real_E.sum(), 0)
        z = jax.lax.stop_gradient(z)
        own_E, signs_E = ratio_B[::2], signs_B[::2]
        loss_E = jnp.where(
            signs_E > 0,
            config.desirable_weight * (1 - jax.nn.sigmoid(beta * (own_E - z))),
            config.undesirable_weight * (1 - jax.nn.sigmoid(beta * (z - own_E))),
        )
    return jnp.sum(loss_E * real_E) / real_E.sum()


def step(config: PreferenceConfig, params: Any, start: Any, batch: PreferenceBatch, **options: Any):
    """(metrics, how far an SGD step of rate 1 goes)."""
    graphdef, _ = initial(CONFIG)
    run = make_train_step(
        graphdef, optax.sgd(RATE), objective=Preferred(config, graphdef), **options
    )
    state = init_train_state(jax.tree.map(jnp.copy, params), optax.sgd(RATE), options.get("mesh"))
    state, metrics = run(state, batch, (), Kept((), start))
    return metrics, jax.tree.map(lambda after, p: (p - after) / RATE, state.params, params)


@pytest.mark.parametrize(
    "config", [pytest.param(DPO, marks=pytest.mark.slow), KTO], ids=["dpo", "kto"]
)
def test_it_is_the_definition(config: PreferenceConfig):
    graphdef, start = initial(CONFIG)
    start = jax.tree.map(jnp.asarray, start)
    params, batch = moved(start, 0.03), batch_of(config, 5)
    metrics, moves = step(config, params, start, batch)
    rows = whole(batch)
    want, gradients = jax.jit(
        jax.value_and_grad(lambda params: by_definition(config, graphdef, params, start, rows))
    )(params)
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-4)
    largest = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradients))
    assert largest > 1e-3
    for got, expected in zip(jax.tree.leaves(moves), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3 * max(largest, 0.05))
    if config.method == "dpo":
        margin = metrics["reward_chosen"] - metrics["reward_rejected"]
        np.testing.assert_allclose(metrics["reward_margin"], margin, rtol=1e-3, atol=1e-5)
        assert 0 <= metrics["accuracy"] <= 1
        assert metrics["tokens"] == 5 * (3 + 4)
    else:
        assert metrics["kl_reference"] >= 0


def test_at_the_reference():
    _, start = initial(CONFIG)
    start = jax.tree.map(jnp.asarray, start)
    config = PreferenceConfig()
    metrics, _ = step(config, start, start, batch_of(config, 4))
    np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward_margin"], 0, atol=1e-5)
    assert metrics["grad_norm"] > 1e-3


@pytest.mark.parametrize(
    "config", [DPO, pytest.param(KTO, marks=pytest.mark.slow)], ids=["dpo", "kto"]
)
def test_on_a_mesh(config: PreferenceConfig):
    """Of seven examples and one of padding; of dpo in two parts as well, which has no mean over the
    batch in it."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
    _, start = initial(CONFIG)
    start = jax.tree.map(jnp.asarray, start)
    params, batch = moved(start, 0.03), batch_of(config, 7)
    one, _ = step(config, params, start, batch)
    own, theirs = (
        jax.tree.map(jax.device_put, tree, sharding.shardings(mesh, tree))
        for tree in (params, start)
    )
    placed = PreferenceBatch(*place(mesh, sharding.BATCH, *batch))
    parts = 2 if config.method == "dpo" else 1
    many, _ = step(config, own, theirs, placed, mesh=mesh, grad_accumulation_steps=parts)
    assert one.keys() == many.keys()
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, rtol=5e-4, atol=1e-5, err_msg=name)
