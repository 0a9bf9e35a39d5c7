# SPDX-License-Identifier: Apache-2.0
"""Runs: steps appear whole, the newest are kept, training goes on from them exactly."""

import dataclasses
import functools
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from checkpoints import store
from checkpoints.load import load_checkpoint, open_checkpoint
from recurrentgemma.params import flat_params
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import assert_same_bits, random_params, small_config

CONFIG = small_config(num_layers=3)


@pytest.fixture
def run(tmp_path):
    """A run directory with its config."""
    store.write_run_config(tmp_path / "run", CONFIG, {"steps": 6})
    return tmp_path / "run"


@pytest.fixture
def params():
    return {name: jnp.asarray(array) for name, array in random_params(CONFIG).items()}


@pytest.fixture
def tx():
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.linear_schedule(1e-3, 0.0, 10),
            mask=lambda tree: jax.tree.map(lambda array: array.ndim > 1, tree),
        ),
    )


@functools.partial(jax.jit, static_argnums=0)
def step(tx, params, opt_state) -> tuple[Any, Any]:
    grads = jax.tree.map(lambda p: p * 0.25 + 1, params)
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def test_resuming_is_exact(run, params, tx):
    params = {name: array for name, array in params.items() if "blocks.0/mlp_block" in name}
    opt_state = tx.init(params)
    for _ in range(3):
        params, opt_state = step(tx, params, opt_state)
    run_steps.save(run, 3, params, opt_state=opt_state, data_state={"file": 2, "at": [5, 7]})
    like = jax.eval_shape(tx.init, params)
    restored = run_steps.restore(run, params_like=params, opt_state_like=like)
    assert restored.step == 3
    assert restored.data_state == {"file": 2, "at": [5, 7]}
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(opt_state)
    assert_same_bits(restored.params, params)
    for _ in range(3):
        params, opt_state = step(tx, params, opt_state)
    again, state = restored.params, restored.opt_state
    for _ in range(3):
        again, state = step(tx, again, state)
    assert_same_bits(again, params)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(opt_state), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    config, train = store.read_run_config(run)
    assert (config, train) == (CONFIG, {"steps": 6})


def test_a_config_without_options_says_so(run):
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"train": None}))
    with pytest.raises(ValueError, match=r"expected the options of a run under 'train', got None"):
        store.read_run_config(run)


def test_the_newest_are_kept(run, params):
    assert store.latest_step(run) is None
    for at in (1, 5, 10, 100):
        run_steps.save(run, at, params, keep=2)
    assert store.all_steps(run) == [10, 100]
    assert store.latest_step(run) == 100
    assert run_steps.restore(run, 10).step == 10
    with pytest.raises(ValueError, match="100: this step exists already"):
        run_steps.save(run, 100, params)
    with pytest.raises(ValueError, match="keep=0: expected at least 1"):
        run_steps.save(run, 101, params, keep=0)
    with pytest.raises(ValueError, match=r"elsewhere/config\.json: missing; every checkpoint"):
        run_steps.save(run / "elsewhere", 1, params)


def test_a_run_one_of_its_steps_and_a_bare_checkpoint_load(tmp_path, params):
    run = tmp_path / "run"
    store.write_run_config(run, CONFIG, {})
    with pytest.raises(ValueError, match="neither checkpoints/ nor params/"):
        open_checkpoint(run)
    older = {name: array + 1 for name, array in params.items()}
    run_steps.save(run, 1, older)
    run_steps.save(run, 2, params)
    for path, expected in {
        run: params,
        run / "checkpoints" / "2": params,
        run / "checkpoints" / "1": older,
    }.items():
        model, config, _ = load_checkpoint(path)
        assert config == CONFIG
        assert_same_bits(flat_params(model), expected)
    (run / "config.json").write_text('{"model": {"width": 24')
    with pytest.raises(ValueError, match=r"config\.json: not a JSON file"):
        open_checkpoint(run)
    (run / "config.json").write_text(json.dumps({"model": CONFIG.to_json() | {"colour": 1}}))
    with pytest.raises(ValueError, match=r"config\.json: unknown GriffinConfig field 'colour'"):
        open_checkpoint(run)


def test_a_step_is_a_checkpoint_wherever_it_lies(run, tmp_path, params):
    """It holds its config: the run's may be lost, but may not say something else."""
    run_steps.save(run, 2, params)
    shutil.copytree(run / "checkpoints" / "2", tmp_path / "elsewhere")
    (run / "config.json").unlink()
    for path in (run, tmp_path / "elsewhere"):
        model, config, _ = load_checkpoint(path)
        assert config == CONFIG
        assert_same_bits(flat_params(model), params)
    other = dataclasses.replace(CONFIG, attention_window=8, remat="block")
    store.write_run_config(run, other, {})
    with pytest.raises(ValueError, match="attention_window=8, and step 2 was trained with 16"):
        open_checkpoint(run)
    assert load_checkpoint(run / "checkpoints" / "2")[1] == CONFIG


def test_an_old_step_loads(run, params, tx):
    """One without config, metrics and checksums is taken as it is, with its run's config."""
    run_steps.save(run, 1, params, opt_state=tx.init(params), data_state={"next": 3})
    for item in ("config", "metrics", "checksums"):
        shutil.rmtree(run / "checkpoints" / "1" / item)
    assert load_checkpoint(run)[1] == CONFIG
    restored = run_steps.restore(run, opt_state_like=tx.init(params))
    assert_same_bits(restored.params, params)
    assert restored.data_state == {"next": 3}
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: missing"):
        open_checkpoint(run)


def test_an_unfinished_step_does_not_count(run, params):
    """What a killed process leaves: Orbax's temporary directory, or an empty one."""
    run_steps.save(run, 1, params)
    steps = run / "checkpoints"
    shutil.copytree(steps / "1", steps / "2.orbax-checkpoint-tmp-1700000000")
    (steps / "3").mkdir()
    assert store.all_steps(run) == [1]
    assert load_checkpoint(run)[1] == CONFIG
    run_steps.save(run, 4, params)
    assert store.all_steps(run) == [1, 4]


def test_a_checkpoint_of_another_model_or_optimizer(run, params, tx):
    run_steps.save(run, 1, params, opt_state=tx.init(params))
    name = "final_norm/scale"
    with pytest.raises(ValueError, match=rf"'{name}' has shape \(24,\), expected \(25,\)"):
        run_steps.restore(run, params_like={**params, name: jnp.zeros(25)})
    with pytest.raises(ValueError, match=rf"'{name}' has shape \(24,\), expected none: it is unk"):
        run_steps.restore(run, params_like={k: v for k, v in params.items() if k != name})
    with pytest.raises(ValueError, match=r"opt_state: '.*; the checkpoint is .* another optimiz"):
        run_steps.restore(run, opt_state_like=optax.sgd(1.0, momentum=0.9).init(params))
    run_steps.save(run, 2, params)
    with pytest.raises(ValueError, match="holds no optimizer state"):
        run_steps.restore(run, opt_state_like=tx.init(params))


def test_a_damaged_step_is_named(run, params):
    run_steps.save(run, 7, params)
    for data in (run / "checkpoints" / "7" / "params").rglob("d/*"):
        data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoints/7/params: .* is incomplete or damaged"):
        run_steps.restore(run)


def test_restored_onto_a_mesh(run, params):
    """Saved from one device, restored over eight, and the other way round."""
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    name = "blocks.0/recurrent_block/linear_x/weight"
    params = {
        key: params[key] for key in (name, "final_norm/scale", "blocks.0/mlp_block/ffw_up/bias")
    }
    run_steps.save(run, 1, params)
    sharding = {
        key: NamedSharding(mesh, PartitionSpec(*(None, "fsdp") if key == name else (None,)))
        for key in params
    }
    like = {
        key: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding[key])
        for key, array in params.items()
    }
    restored = run_steps.restore(run, params_like=like)
    assert restored.params[name].sharding == sharding[name]
    assert len(restored.params[name].addressable_shards) == 8
    assert_same_bits(restored.params, params)
    run_steps.save(run, 2, restored.params)
    assert_same_bits(run_steps.restore(run).params, params)
