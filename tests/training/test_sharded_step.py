# SPDX-License-Identifier: Apache-2.0
"""Training over a mesh is training on one device: eight fake devices, every axis and all mixed."""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels import sequence
from recurrentgemma import parallel, sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.sharded import init_params, place, start_state
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import untrained
from tests.training.small_rows import BATCH, CONFIG, TIME, positions_of
from training.optim import OptimConfig, make_optimizer
from training.step import init_train_state, make_train_step

STEPS = 20
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=2, tensor=4),
    "sequence": MeshConfig(data=1, sequence=8),
    "fsdp-sequence-tensor": MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
    "data-fsdp-sequence": MeshConfig(data=2, fsdp=2, sequence=2),
}


def batches(steps: int) -> list[Batch]:
    """Rows of documents over all cuts; the last row ends in padding."""
    rng = np.random.default_rng(0)
    batches = []
    for step in range(steps):
        positions = positions_of(step)
        positions[-1, 40:] = -1
        tokens, targets = rng.integers(0, CONFIG.vocab_size, (2, BATCH, TIME), np.int32)
        weights = (positions >= 0).astype(np.float32)
        batches.append(Batch(*map(jnp.asarray, (tokens, targets, weights, positions))))
    return batches


ADAMW = OptimConfig(learning_rate=1e-2, warmup_steps=2)


class Trained(NamedTuple):
    """Loss and gradient norm of each step, and the compiled step that made them."""

    losses: np.ndarray
    step: jax.stages.Compiled


@functools.cache
def train(
    mesh_config: MeshConfig | None,
    steps: int = STEPS,
    config: GriffinConfig = CONFIG,
    optim: OptimConfig = ADAMW,
    accumulation: int = 1,
) -> Trained:
    tx = make_optimizer(optim, steps=STEPS)
    mesh = make_mesh(mesh_config) if mesh_config else None
    graphdef, params = start(config, mesh)
    state = init_train_state(params, tx, mesh)
    step = make_train_step(
        graphdef, tx, mesh=mesh, z_loss=1e-3, grad_accumulation_steps=accumulation
    )
    given = [
        Batch(*place(mesh, sharding.BATCH, *batch)) if mesh else batch for batch in batches(steps)
    ]
    compiled, losses = step.lower(state, given[0]).compile(), []
    for batch in given:
        state, metrics = compiled(state, batch)
        losses.append([float(metrics[name]) for name in ("loss", "grad_norm", "log_z")])
    return Trained(np.asarray(losses), compiled)


@functools.cache
def initial(config: GriffinConfig) -> tuple[nnx.GraphDef[Griffin], nnx.State]:
    """The structure and the first parameters, on the host: steps take what they are given."""
    graphdef, params = nnx.split(untrained(config), nnx.Param)
    return graphdef, jax.tree.map(np.asarray, params)


def start(config: GriffinConfig, mesh: jax.sharding.Mesh | None):
    """The structure and the first parameters, on the mesh if there is one."""
    graphdef, params = initial(config)
    if mesh is None:
        return graphdef, jax.tree.map(jnp.array, params)
    return graphdef, jax.tree.map(jax.device_put, params, sharding.shardings(mesh, params))


@pytest.fixture(scope="module")
def one_device() -> np.ndarray:
    return train(None).losses


@pytest.mark.parametrize(
    "name",
    [
        "fsdp-sequence-tensor",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in MESHES
            if name != "fsdp-sequence-tensor"
        ),
    ],
)
def test_the_losses_of_one_device(one_device, name):
    """Twenty steps of AdamW in float32. One device's losses fall by half while it is compared."""
    losses = train(MESHES[name]).losses
    np.testing.assert_allclose(losses[:, 0], one_device[:, 0], rtol=1e-5)
    np.testing.assert_allclose(losses[:, 1], one_device[:, 1], rtol=1e-4)
    np.testing.assert_allclose(losses[:, 2], one_device[:, 2], rtol=1e-5)


def test_scanned_layers_that_are_recomputed():
    config = dataclasses.replace(CONFIG, num_layers=5, scan_layers=True, remat="block")
    losses = train(MESHES["fsdp-sequence-tensor"], 2, config).losses
    np.testing.assert_allclose(losses, train(None, 2, config).losses, rtol=1e-5)


def test_rows_in_two_parts_are_the_same_step(one_device):
    """The last row, with its padding, makes the parts differ in tokens."""
    losses = train(None, 3, accumulation=2).losses
    np.testing.assert_allclose(losses, one_device[:3], rtol=1e-5)


@pytest.mark.slow
def test_muon_in_two_parts():
    muon = dataclasses.replace(ADAMW, algorithm="muon")
    losses = train(MESHES["fsdp-sequence-tensor"], 4, optim=muon, accumulation=2).losses
    np.testing.assert_allclose(losses, train(None, 4, optim=muon).losses, rtol=1e-4)


def broken_halo(monkeypatch):
    right = sequence._from_before
    monkeypatch.setattr(
        sequence, "_from_before", lambda x, *args: jax.tree.map(lambda v: 0 * v, right(x, *args))
    )


def broken_replicate(monkeypatch):
    monkeypatch.setattr(parallel, "_replicate", lambda x, axes: x)


def broken_gather(monkeypatch):
    monkeypatch.setattr(parallel, "_replicate_float32", lambda x, axes: x)


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (broken_halo, "sequence"),
        (broken_replicate, "tensor"),
        (broken_gather, "data"),
    ],
)
def test_it_goes_red(one_device, broken, name, monkeypatch):
    """Without a halo and a carry, or without a gradient's sum over tensor or over data."""
    broken(monkeypatch)
    losses = train.__wrapped__(MESHES[name], 2).losses
    assert np.abs(losses / one_device[:2] - 1).max() > 1e-3


def collectives(mesh_config: MeshConfig) -> list[tuple[str, str]]:
    """(kind, type of the result) of each collective of the compiled step, in the model's part."""
    text = train(mesh_config).step.as_text()
    assert text is not None
    matches = re.findall(
        r" = (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
        r"(?:-start)?\(.*op_name=\"jit\(train_step\)/[^\"]*shard_map",
        text,
    )
    return [(kind, result) for result, kind in matches]


def test_the_recurrence_gathers_nothing_over_tensor():
    """Over tensor alone nothing is gathered. Activations are summed twice a block in each
    direction, as in Megatron (Griffin paper, section 4.1), and once for embedding and head each."""
    exchanged = collectives(MESHES["tensor"])
    kinds = {kind for kind, _ in exchanged}
    assert "all-gather" not in kinds
    assert "all-to-all" not in kinds
    activation = f"f32[{BATCH // 2},{TIME},{CONFIG.width}]"
    whole = sum(result.count(activation) for kind, result in exchanged if kind == "all-reduce")
    assert whole == 2 * 2 * CONFIG.num_layers + 1  # and the head's, whose shape is [B T, D]


def test_over_fsdp_each_weight_is_gathered_and_its_gradient_scattered():
    exchanged = collectives(MESHES["fsdp"])
    gathered = [result for kind, result in exchanged if kind == "all-gather"]
    scattered = [result for kind, result in exchanged if kind == "reduce-scatter"]
    shapes = {f"[{CONFIG.mlp_width},{CONFIG.width}]", f"[{CONFIG.vocab_size},{CONFIG.width}]"}
    assert all(any(shape in result for result in gathered) for shape in shapes)
    assert scattered
    assert not any(f",{TIME},{CONFIG.width}]" in result for result in gathered)  # no activations


def test_parameters_are_born_sharded_and_the_same():
    mesh = make_mesh(MESHES["fsdp-sequence-tensor"])
    _, params = init_params(CONFIG, mesh, 0)
    want = nnx.state(Griffin(CONFIG, rngs=nnx.Rngs(0)), nnx.Param)

    def check(path, got, value):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-7)
        whole = sharding.param_spec(sharding.parameter_name(path), got.ndim) == jax.P()
        assert whole or got.addressable_shards[0].data.size < got.size

    jax.tree_util.tree_map_with_path(check, params, want)
    largest = max(jax.tree.leaves(params), key=lambda x: x.size)
    assert largest.addressable_shards[0].data.size == largest.size // 8  # fsdp, sequence, tensor


def test_moments_lie_where_their_parameters_do():
    mesh = make_mesh(MESHES["fsdp"])
    _, params = init_params(CONFIG, mesh, 0)
    state = init_train_state(params, make_optimizer(OptimConfig(warmup_steps=2), steps=9), mesh)
    adam = next(s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu")))
    for moments in (adam.mu, adam.nu):
        same = jax.tree.map(lambda p, m: p.sharding == m.sharding, params, moments)
        assert all(jax.tree.leaves(same))


def test_a_batch_that_does_not_fit():
    mesh = make_mesh(MESHES["data-fsdp-sequence"])
    with pytest.raises(ValueError, match=r"a batch of 6 rows .* choose a multiple of 4, such as 8"):
        sharding.check_batch(6, 48, mesh.shape)
    with pytest.raises(ValueError, match=r"rows of 47 tokens .* sequence=2; .* such as 48"):
        sharding.check_batch(8, 47, mesh.shape)


def test_bfloat16(one_device):
    """Over float32 weights, which travel in bfloat16: the losses agree to its rounding."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    losses = train(MESHES["fsdp-sequence-tensor"], 3, config).losses
    np.testing.assert_allclose(losses[:, 0], one_device[:3, 0], rtol=2e-2)


@functools.cache
def carried_losses(
    mesh_config: MeshConfig | None, parts: int, accumulation: int = 1
) -> list[float]:
    """Loss of each part of rows of which some documents go on from part to part."""
    mesh = make_mesh(mesh_config) if mesh_config else None
    tx = make_optimizer(OptimConfig(learning_rate=0.0, warmup_steps=0), steps=STEPS)
    graphdef, params = start(CONFIG, mesh)
    carried = start_state(CONFIG, BATCH, mesh)
    state = init_train_state(params, tx, mesh, carried=carried)
    step = make_train_step(graphdef, tx, mesh=mesh, grad_accumulation_steps=accumulation)
    positions = np.tile(np.arange(TIME, dtype=np.int32), (BATCH, 1))
    positions[1, 20:] -= 20  # a document that begins in the middle and goes over every cut
    tokens, targets = np.random.default_rng(1).integers(0, 64, (2, BATCH, TIME), np.int32)
    whole = (tokens, targets, np.ones((BATCH, TIME), np.float32), positions)
    losses = []
    for arrays in zip(*(np.split(x, parts, axis=1) for x in whole), strict=True):
        batch = Batch(*(place(mesh, sharding.BATCH, *arrays) if mesh else map(jnp.asarray, arrays)))
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(None, marks=pytest.mark.slow),
        MESHES["data-fsdp-sequence"],
        pytest.param(MESHES["tensor"], marks=pytest.mark.slow),
    ],
)
def test_a_carried_state_goes_on(mesh):
    """Three batches of a third of the rows, the state carried, lose what the whole rows do."""
    [whole] = carried_losses(None, 1)
    accumulation = 2 if mesh else 1
    np.testing.assert_allclose(np.mean(carried_losses(mesh, 3, accumulation)), whole, rtol=1e-5)
