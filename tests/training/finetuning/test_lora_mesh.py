# SPDX-License-Identifier: Apache-2.0
"""LoRA over a mesh is LoRA on one device: eight fake devices, every axis and all mixed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma import sharding
from recurrentgemma.adapters import flat_adapters
from recurrentgemma.config import GriffinConfig
from recurrentgemma.losses import Batch
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.sharded import place
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import untrained
from tests.training.finetuning.test_lora import LORA, moved
from tests.training.small_rows import BATCH, CONFIG, TIME, positions_of
from training.finetuning.lora import adapt, split
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step


def batches(steps: int) -> list[Batch]:
    """Rows of documents over all cuts; of some targets the weight is 0."""
    rng = np.random.default_rng(0)
    batches = []
    for step in range(steps):
        positions = positions_of(step)
        tokens, targets = rng.integers(0, CONFIG.vocab_size, (2, BATCH, TIME), np.int32)
        weights = (positions % 5 > 1).astype(np.float32)
        batches.append(Batch(*map(jnp.asarray, (tokens, targets, weights, positions))))
    return batches


def losses(config: GriffinConfig, sizes: MeshConfig | None, steps: int):
    """Loss and gradient norm of each step of training adapters that have left their beginning."""
    mesh = make_mesh(sizes) if sizes else None
    base = from_flat_params(config, flat_params(untrained(CONFIG)))
    graphdef, params, frozen = split(moved(adapt(base, LORA, seed=1)))
    if mesh:
        params, frozen = jax.device_put(
            (params, frozen), sharding.shardings(mesh, (params, frozen))
        )
    tx = make_optimizer(OptimConfig(learning_rate=1e-2, warmup_steps=2), steps=20)
    state = init_train_state(params, tx, mesh)
    step = make_train_step(graphdef, tx, mesh=mesh)
    curve = []
    for batch in batches(steps):
        batch = Batch(*place(mesh, sharding.BATCH, *batch)) if mesh else batch
        state, metrics = step(state, batch, frozen)
        curve.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.asarray(curve)


MESHES = {
    "data-fsdp": MeshConfig(data=2, fsdp=4),
    "all": MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}


@pytest.fixture(scope="module")
def one_device() -> np.ndarray:
    return losses(CONFIG, None, 4)


@pytest.mark.parametrize("name", [pytest.param("data-fsdp", marks=pytest.mark.slow), "all"])
def test_the_losses_of_one_device(one_device: np.ndarray, name: str):
    got = losses(CONFIG, MESHES[name], 4)
    np.testing.assert_allclose(got[:, 0], one_device[:, 0], rtol=1e-5)
    np.testing.assert_allclose(got[:, 1], one_device[:, 1], rtol=1e-4)


@pytest.mark.usefixtures("traced_anew")
def test_it_goes_red_without_the_sum_over_tensor(one_device, monkeypatch):
    monkeypatch.setattr("recurrentgemma.adapters.over_tensor", lambda name: False)
    got = losses(CONFIG, MESHES["all"], 2)
    assert (
        np.abs(got[:, 1] / one_device[:2, 1] - 1).max() > 3e-4
    )  # three times what the test above allows


@pytest.mark.slow
def test_scanned_and_recomputed_on_a_mesh(one_device):
    """Stacked adapters are those of the same layers, so the losses are the unrolled model's."""
    config = dataclasses.replace(CONFIG, scan_layers=True, remat="block")
    got = losses(config, MESHES["data-fsdp"], 2)
    np.testing.assert_allclose(got[:, 0], one_device[:2, 0], rtol=1e-5)


def test_adapters_are_born_where_they_lie():
    mesh = make_mesh(MESHES["all"])
    model = adapt(untrained(CONFIG), LORA, seed=1, mesh=mesh)
    want = flat_adapters(adapt(untrained(CONFIG), LORA, seed=1))
    for name, value in flat_adapters(model).items():
        np.testing.assert_allclose(value, want[name], rtol=1e-6)
    layer: Any = model.blocks[0].mlp_block.ffw_up
    a, b = layer.weight_lora_a[...], layer.weight_lora_b[...]
    assert a.addressable_shards[0].data.shape == (CONFIG.width // 4, LORA.rank)
    assert b.addressable_shards[0].data.shape == (LORA.rank, CONFIG.mlp_width // 2)


def test_no_adapter_is_gathered_by_another_name():
    """Where an adapter is divided over fsdp is where its weight is."""
    assert sharding.gathered_dimension("blocks.0/mlp_block/ffw_up/weight_lora_a") == 0
    assert sharding.gathered_dimension("blocks.0/mlp_block/ffw_up/weight_lora_b") is None
    assert sharding.gathered_dimension("blocks.0/mlp_block/ffw_down/weight_lora_b") == 1
