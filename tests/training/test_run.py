# SPDX-License-Identifier: Apache-2.0
"""A train state saved from one mesh goes on on any other, its layers scanned or not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from checkpoints import store
from checkpoints.convert import convert
from recurrentgemma import params, sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.sharding import MeshConfig, make_mesh
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.tokenizer import find_tokenizer
from tests.checkpoints import run_steps
from tests.drawn import untrained
from training import per_layer, run
from training.configs import TrainConfig
from training.data.batches import Batches
from training.optim import decays, make_optimizer, parameter_name
from training.step import TrainState, init_train_state

MESHES = {
    "one device": None,
    "fsdp 2, tensor 2": MeshConfig(data=1, fsdp=2, tensor=2),
    "fsdp 4": MeshConfig(data=1, fsdp=4),
    "data 2, fsdp 2, tensor 2": MeshConfig(data=2, fsdp=2, tensor=2),
}


def mesh_named(name: str) -> Mesh | None:
    config = MESHES[name]
    if config is None:
        return None
    return make_mesh(config, jax.devices()[: config.data * config.fsdp * config.tensor])


def config_of(small: TrainConfig, *, scanned: bool) -> GriffinConfig:
    """Two groups and a tail."""
    return dataclasses.replace(
        small.model, num_layers=5, vocab_size=264, num_gate_blocks=4, scan_layers=scanned
    )


def muon() -> optax.GradientTransformation:
    """An optimizer that has no moments of some parameters."""

    def dimensions(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: (
                optax.contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1)
                if decays(parameter_name(path))
                else None
            ),
            params,
        )

    return optax.contrib.muon(1e-3, muon_weight_dimension_numbers=dimensions)


def shapes_of(config: GriffinConfig, tx: optax.GradientTransformation) -> TrainState:
    """A train state without its values."""

    def init() -> TrainState:
        return init_train_state(nnx.split(untrained(config), nnx.Param)[1], tx)

    return jax.eval_shape(init)


def where_of(shapes: TrainState, mesh: Mesh | None) -> Any:
    """The sharding of every leaf."""
    if mesh is not None:
        return sharding.shardings(mesh, shapes)
    return jax.tree.map(lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)


def trained(shapes: TrainState, mesh: Mesh | None) -> TrainState:
    """One of step 3, no two of its values alike."""
    random = np.random.default_rng(0)

    def value(x: jax.ShapeDtypeStruct) -> np.ndarray:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return random.standard_normal(x.shape, np.float32)
        return np.full(x.shape, 7, x.dtype)

    values = jax.tree.map(value, shapes)._replace(step=np.int32(3), skipped=np.int32(1))
    return jax.tree.map(jax.device_put, values, where_of(shapes, mesh))


def batches() -> Batches:
    return Batches([np.arange(40)], batch_size=2, row_length=8, seed=0)


def by_layer(train_state: TrainState, config: GriffinConfig) -> dict[str, np.ndarray]:
    """Every value, by where it stands in the state and canonical name."""
    slices_by_place = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.tree.map(np.asarray, train_state), is_leaf=per_layer._is_state
    ):
        where = jax.tree_util.keystr(path)
        slices = {"": leaf}
        if per_layer._is_state(leaf):
            slices = params.unstack(config, params.by_path(leaf))
        slices_by_place |= {f"{where} {name}": value for name, value in slices.items()}
    return slices_by_place


@pytest.mark.parametrize(
    ("optimizer", "there", "scanned_there", "here", "scanned_here"),
    [
        pytest.param("muon", "fsdp 2, tensor 2", True, "fsdp 4", True, marks=pytest.mark.slow),
        ("adamw", "fsdp 4", False, "one device", True),
        ("muon", "one device", True, "data 2, fsdp 2, tensor 2", False),
    ],
)
def test_from_any_mesh_to_any(
    small: TrainConfig, tmp_path: Path, optimizer, there, scanned_there, here, scanned_here
):
    tx = muon() if optimizer == "muon" else make_optimizer(small.optimizer, steps=small.steps)
    run.begin_run(tmp_path / "run", small, ByteTokenizer())
    data = batches()
    next(data)

    config, mesh = config_of(small, scanned=scanned_there), mesh_named(there)
    saved = trained(shapes_of(config, tx), mesh)
    with run.open_checkpoints(tmp_path / "run", small) as checkpoints:
        assert run.restore(checkpoints, data, config=config, fresh=saved, mesh=mesh) is None
        run.save(checkpoints, saved, data.state(), config=config, mesh=mesh, held_out=2.0)
    expected = by_layer(saved, config)

    config, mesh, data = config_of(small, scanned=scanned_here), mesh_named(here), batches()
    shapes = shapes_of(config, tx)
    with run.open_checkpoints(tmp_path / "run", small) as checkpoints:
        saved_again = run.restore(checkpoints, data, config=config, fresh=shapes, mesh=mesh)
    assert saved_again is not None
    restored, kept_state = saved_again
    assert kept_state is None
    assert jax.tree.structure(restored) == jax.tree.structure(shapes)
    leaves = zip(
        *(jax.tree.leaves(tree) for tree in (restored, shapes, where_of(shapes, mesh))), strict=True
    )
    for leaf, shape, where in leaves:
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
    got = by_layer(restored, config)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert data.state() == {"next_row": 2, "fingerprint": data.state()["fingerprint"]}


def test_layers_are_unstacked_and_stacked_without_gathering(small: TrainConfig):
    config, mesh = config_of(small, scanned=True), mesh_named("data 2, fsdp 2, tensor 2")
    assert mesh is not None
    shapes = shapes_of(config, make_optimizer(small.optimizer, steps=small.steps))
    arrays = params.by_path(trained(shapes, mesh).params)
    unstack = per_layer._unstack.lower(arrays, config, mesh).compile()
    flat = unstack(arrays)
    stack = per_layer._stack.lower(flat, tuple(arrays), config, mesh).compile()
    for program in (unstack, stack):
        text = program.as_text()
        assert text is not None
        for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
            assert collective not in text
    for name, array in flat.items():
        where = sharding.param_spec(name, array.ndim)
        assert array.sharding.is_equivalent_to(jax.NamedSharding(mesh, where), array.ndim), name
    assert flat["blocks.3/mlp_block/ffw_up/weight"].addressable_shards[0].data.size * 4 == (
        config.mlp_width * config.width
    )


def test_a_step_without_the_datas_state_is_refused(small: TrainConfig, tmp_path: Path):
    run.begin_run(tmp_path / "run", small, ByteTokenizer())
    tx = make_optimizer(small.optimizer, steps=small.steps)
    fresh = trained(shapes_of(small.model, tx), None)
    flat, opt_state = per_layer.unstacked((fresh.params, fresh.opt_state), small.model)
    with run.open_checkpoints(tmp_path / "run", small) as checkpoints:
        checkpoints.save(4, flat, opt_state=opt_state)
        with pytest.raises(ValueError, match="step 4 does not say where its data goes on"):
            run.restore(checkpoints, batches(), config=small.model, fresh=fresh)


@pytest.mark.parametrize("there", ["nothing", "a directory", "the config"])
def test_a_run_that_was_killed_as_it_began_is_begun(small: TrainConfig, tmp_path: Path, there: str):
    run_dir = tmp_path / "run"
    if there != "nothing":
        run_dir.mkdir()
    if there == "the config":
        store.write_run_config(run_dir, small.model, small.to_json())
    assert run.open_run(run_dir, small) == 0
    run.begin_run(run_dir, small, ByteTokenizer())
    assert sorted(file.name for file in run_dir.iterdir()) == [
        "byte_tokenizer.json",
        "config.json",
    ]
    assert find_tokenizer(run_dir) is not None
    assert run.open_run(run_dir, small) == 0


def test_what_lay_beside_the_tokenizer_of_a_base_reaches_an_export(
    small: TrainConfig, tmp_path: Path
):
    model = dataclasses.replace(small.model, logits_soft_cap=30.0, scale_embeddings=True)
    beside = {"chat_template.jinja": "{{ mine }}", "special_tokens_map.json": "{}"}
    generation = {"eos_token_id": [257, 65], "temperature": 0.5}
    beside |= {"generation_config.json": json.dumps(generation)}
    base, run_dir = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    ByteTokenizer().save(base)
    for name, text in beside.items():
        (base / name).write_text(text)
    config = dataclasses.replace(small, model=model, tokenizer=str(base))
    tokenizer = run.run_tokenizer(run_dir, config, ())
    assert tokenizer.stop_ids == (257, 260, 65)
    run.begin_run(run_dir, config, tokenizer)
    for name, text in beside.items():
        assert (run_dir / name).read_text() == text
    assert run.run_tokenizer(run_dir, config, ()).stop_ids == (257, 260, 65)
    run_steps.save(run_dir, 1, params.flat_params(untrained(model)))
    convert(run_dir, tmp_path / "out", "huggingface")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ mine }}"
    exported = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert exported["eos_token_id"] == [257, 260, 65]
    assert exported["temperature"] == 0.5
