# SPDX-License-Identifier: Apache-2.0
"""The retention losses in a training step: against their definitions, without weight, by LoRA and
on a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from eval.dynamic.retention import categorical_kl
from recurrentgemma import sharding
from recurrentgemma.adapters import flat_adapters
from recurrentgemma.griffin import Griffin
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.losses import Batch, next_token_loss
from recurrentgemma.params import by_path
from recurrentgemma.sharded import place, start_state
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.training.small_rows import CONFIG
from tests.training.test_sharded_step import batches, initial
from training.finetuning import lora
from training.retention.config import RetainConfig
from training.retention.objective import Carried, Kept, Kickstarted, Retention
from training.step import NOTHING, init_train_state, make_train_step

RATE = 0.1
LORA = LoraConfig(rank=2, alpha=4.0)
DATA = ("text:kept.txt",)
CONFIGS = {
    "kl": RetainConfig(method="kl", data=DATA, weight=0.7),
    "kl on its own rows": RetainConfig(method="kl", weight=0.7),
    "replay": RetainConfig(method="replay", data=DATA, weight=0.7),
    "ewc": RetainConfig(method="ewc", data=DATA, weight=0.7),
    "l2": RetainConfig(method="l2", weight=0.7),
    "l2-sp": RetainConfig(method="l2-sp", weight=0.7),
}
BATCH, OTHER = batches(2)


def moved(params: Any, by: float) -> Any:
    def one(x: Any) -> jax.Array:
        return x + by * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    return jax.tree.map(one, params)


def given(config: RetainConfig) -> tuple[nnx.GraphDef[Griffin], Any, Kept]:
    """Learner's parameters, and what a step reads beside its batch."""
    graphdef, start = initial(CONFIG)
    start = jax.tree.map(jnp.asarray, start)
    fisher = jax.tree.map(lambda x: jnp.square(jnp.sin(x * 100)), start)
    rows: Any = OTHER if config.reads_rows else ()
    return graphdef, moved(start, 0.02), Kept(rows, start, fisher)


def step_of(config: RetainConfig | None, graphdef: Any, teacher: Any, **options: Any) -> Any:
    retention = None
    if config is not None:
        retention = Retention(config, teacher, options.pop("scale", 0.0))
    return make_train_step(graphdef, optax.sgd(RATE), retention=retention, **options)


def by_definition(config: RetainConfig, graphdef: Any, params: Any, kept: Kept) -> jax.Array:
    """The retention loss from whole logits and parameters."""
    if config.method == "replay":
        return next_token_loss(nnx.merge(graphdef, params), kept.batch)[0]
    if config.method == "kl":
        batch = kept.batch or BATCH
        logits, theirs = (
            nnx.merge(graphdef, p)(batch.tokens_BT, positions=batch.positions_BT)[0]
            for p in (params, kept.start)
        )
        return jnp.sum(batch.weights_BT * categorical_kl(theirs, logits)) / batch.weights_BT.sum()
    value = jnp.zeros(())
    for p, p0, f in zip(*map(jax.tree.leaves, (params, kept.start, kept.fisher)), strict=True):
        factor, origin = {"l2": (1, 0), "l2-sp": (1, p0), "ewc": (f, p0)}[config.method]
        value += jnp.sum(factor * jnp.square(p - origin))
    return value


@pytest.fixture(scope="module")
def plain() -> tuple[Any, dict[str, Any]]:
    """A step without retention."""
    graphdef, params, _ = given(CONFIGS["l2"])
    state, metrics = step_of(None, graphdef, graphdef)(
        init_train_state(jax.tree.map(jnp.copy, params), optax.sgd(RATE)), BATCH
    )
    return state.params, metrics


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_definition(name: str, plain):
    config = CONFIGS[name]
    graphdef, params, kept = given(config)
    state = init_train_state(jax.tree.map(jnp.copy, params), optax.sgd(RATE))
    state, metrics = step_of(config, graphdef, graphdef)(state, BATCH, (), kept)
    loss, gradients = jax.jit(
        jax.value_and_grad(lambda params: by_definition(config, graphdef, params, kept))
    )(params)
    np.testing.assert_allclose(metrics["retention_loss"], loss, rtol=1e-4)
    assert metrics["retention_weight"] == jnp.float32(0.7)
    np.testing.assert_allclose(metrics["loss"], plain[1]["loss"], rtol=1e-6)
    largest = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradients))
    assert largest > 1e-3
    moves = jax.tree.map(lambda after, before: (before - after) / RATE, state.params, plain[0])
    for got, want in zip(jax.tree.leaves(moves), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(got, 0.7 * want, rtol=0, atol=2e-4 * max(largest, 1))


def test_at_the_teacher_nothing_pulls():
    config = CONFIGS["kl on its own rows"]
    graphdef, _, kept = given(config)
    objective = Kickstarted(Retention(config, graphdef))

    def retained(params: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return objective(model, kept.start, BATCH, None, jnp.ones(()))[1][0]["retention"]

    loss, gradients = jax.jit(jax.value_and_grad(retained))(kept.start)
    assert abs(float(loss)) < 1e-6
    assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradients)) < 1e-6


def test_the_weight_falls_to_its_floor():
    config = RetainConfig(method="l2-sp", weight=2.0, decay=0.5, floor=0.3)
    graphdef, params, kept = given(config)
    step, seen = step_of(config, graphdef, graphdef), []
    state = init_train_state(jax.tree.map(jnp.copy, params), optax.sgd(1e-4))
    for _ in range(4):
        state, metrics = step(state, BATCH, (), kept)
        seen.append(float(metrics["retention_weight"]))
    np.testing.assert_allclose(seen, [2.0, 1.0, 0.5, 0.3], rtol=1e-6)


def adapted(mesh: jax.sharding.Mesh | None = None) -> tuple[Any, Any, Any, Any]:
    """(structure, adapters that are not zero, frozen parameters, the teacher's structure)."""
    graphdef, start = initial(CONFIG)
    base = nnx.merge(graphdef, jax.tree.map(jnp.asarray, start))
    trained, adapters, frozen = lora.split(lora.adapt(base, LORA, seed=0))
    adapters = moved(adapters, 0.05)
    if mesh is not None:
        adapters, frozen = (
            jax.tree.map(jax.device_put, tree, sharding.shardings(mesh, tree))
            for tree in (adapters, frozen)
        )
    return trained, adapters, frozen, graphdef


def test_by_lora_the_teacher_is_the_base():
    trained, adapters, frozen, teacher = adapted()
    config = CONFIGS["kl"]
    _, start = initial(CONFIG)
    state = init_train_state(jax.tree.map(jnp.copy, adapters), optax.sgd(RATE))
    step = step_of(config, trained, teacher, scale=2.0)
    _, metrics = step(state, BATCH, frozen, Kept(OTHER))
    learner = nnx.merge(trained, adapters, frozen)
    logits, theirs = (
        model(OTHER.tokens_BT, positions=OTHER.positions_BT)[0]
        for model in (learner, nnx.merge(teacher, jax.tree.map(jnp.asarray, start)))
    )
    kl_BT = OTHER.weights_BT * categorical_kl(theirs, logits)
    np.testing.assert_allclose(
        metrics["retention_loss"], kl_BT.sum() / OTHER.weights_BT.sum(), rtol=1e-4
    )


def of_adapters(method: str, mesh: jax.sharding.Mesh | None) -> list[float]:
    """Retention loss and gradient norm of two steps by LoRA."""
    trained, adapters, frozen, teacher = adapted(mesh)
    config = CONFIGS[method]
    base = nnx.merge(teacher, frozen)
    fisher = nnx.split(base, lambda path, _: path[-1] == "weight", ...)[1]
    fisher = jax.tree.map(lambda x: jnp.square(jnp.sin(x * 100)), fisher)
    batch = BATCH if mesh is None else Batch(*place(mesh, sharding.BATCH, *BATCH))
    rows: Any = batch if config.reads_rows else ()
    state = init_train_state(jax.tree.map(jnp.copy, adapters), optax.sgd(RATE), mesh)
    step = step_of(config, trained, teacher, scale=2.0, mesh=mesh)
    seen = []
    for _ in range(2):
        state, metrics = step(state, batch, frozen, Kept(rows, (), fisher))
        seen += [float(metrics["retention_loss"]), float(metrics["grad_norm"])]
    return seen


def test_by_lora_a_weight_is_as_far_as_its_adapters_say():
    trained, adapters, frozen, _ = adapted()
    flat = flat_adapters(nnx.merge(trained, adapters, frozen))
    base = by_path(nnx.state(nnx.merge(*initial(CONFIG)), nnx.Param))
    value = 0.0
    for path, weight in base.items():
        name = path.replace("blocks/", "blocks.")
        if f"{name}_lora_a" in flat:
            change = 2.0 * np.asarray(flat[f"{name}_lora_a"] @ flat[f"{name}_lora_b"]).T
            value += np.sum(np.square(np.sin(100 * weight) * change))
    assert value > 1e-3
    np.testing.assert_allclose(of_adapters("ewc", None)[0], value, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ewc", "kl"])
def test_by_lora_on_a_mesh(method: str):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
    np.testing.assert_allclose(of_adapters(method, mesh), of_adapters(method, None), rtol=2e-4)


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_in_full_on_a_mesh(parts: int):
    """Kickstarting, with a carried state of each; in parts as in one."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    graphdef, params, kept = given(CONFIGS["kl on its own rows"])

    def run(mesh: jax.sharding.Mesh | None, parts: int) -> list[float]:
        own, start = params, kept.start
        batch, other = BATCH, OTHER
        if mesh is not None:
            own, start = (
                jax.tree.map(jax.device_put, tree, sharding.shardings(mesh, tree))
                for tree in (own, start)
            )
            batch, other = (Batch(*place(mesh, sharding.BATCH, *b)) for b in (batch, other))
        states = Carried(*(start_state(CONFIG, len(BATCH.tokens_BT), mesh) for _ in range(2)))
        state = init_train_state(jax.tree.map(jnp.copy, own), optax.sgd(RATE), mesh, carried=states)
        step = step_of(
            CONFIGS["kl on its own rows"],
            graphdef,
            graphdef,
            mesh=mesh,
            grad_accumulation_steps=parts,
        )
        seen = []
        for rows in (batch, other):
            state, metrics = step(state, rows, (), Kept((), start))
            seen += [float(metrics[n]) for n in ("loss", "retention_loss", "grad_norm")]
        return seen

    np.testing.assert_allclose(run(mesh, parts), run(None, 1), rtol=2e-4)


def test_nothing_is_kept_without_retention():
    assert Kept((), (), ()) == NOTHING
