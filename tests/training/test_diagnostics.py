# SPDX-License-Identifier: Apache-2.0
"""The panel of `--diagnostics-every`: what is logged, that it changes nothing, on devices as on
one."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.diagnostics.panel import by_name, update_ratios
from recurrentgemma import sharding
from recurrentgemma.errors import UserError
from recurrentgemma.params import by_path, unstack
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import untrained
from tests.training.small_rows import BATCH, CONFIG, TIME, positions_of
from training import loop, run_folder
from training.data.batches import Batch
from training.data.documents import InMemory, Mixture
from training.diagnostics import Diagnostics, shape
from training.launch import Launch
from training.observe.metrics import read_metrics
from training.optim import OptimConfig, make_optimizer
from training.step import OBSERVED, init_train_state, make_train_step

ONE = Launch(devices=1, tensorboard=False)


@pytest.fixture(scope="module")
def short(small):
    return dataclasses.replace(
        small,
        model=dataclasses.replace(small.model, scan_layers=True),
        steps=4,
        optimizer=dataclasses.replace(small.optimizer, warmup_steps=1),
        log_every=4,
        eval_every=4,
        save_every=4,
    )


@pytest.fixture(scope="module")
def watched(short, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("runs") / "watched"
    assert loop.train(dataclasses.replace(short, diagnostics_every=2), folder, ONE)
    return read_metrics(folder / run_folder.METRICS)


def test_a_run_logs_its_panel(watched):
    assert [record["step"] for record in watched] == [2, 4]  # log_every would leave 2 out
    for record in watched:
        panel = {n: v for n, v in record.items() if n.startswith("diagnostics/")}
        kinds = {name.split("/")[1] for name in panel}
        assert kinds == {
            "blocks.0",
            "blocks.1",
            "final",
            "gradients",
            "weight_norm",
            "update_ratio",
        }
        assert all(math.isfinite(value) for value in panel.values())
        assert 1 <= panel["diagnostics/final/pca_rank"] <= 32
        assert 0 <= panel["diagnostics/gradients/negative_share"] <= 1
        assert 0 < panel["diagnostics/blocks.0/decay"] < 1
        name = "blocks.1/mlp_block/ffw_up/weight"
        assert 1e-4 < panel[f"diagnostics/update_ratio/{name}"] < 1
    assert watched[0]["diagnostics/final/norm"] != watched[1]["diagnostics/final/norm"]


@pytest.mark.slow
def test_a_mesh_gives_the_same(short):
    """With the parameters and the batch laid over it; the rows of the gradients are others."""
    config = dataclasses.replace(short, diagnostics_every=1)
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2), jax.devices()[:4])
    graphdef, params = nnx.split(untrained(config.model), nnx.Param)
    mixture = Mixture((InMemory([np.arange(3000, dtype=np.int32) % 251]),), (1.0,))
    ratios = jax.jit(update_ratios)(params, params)
    alone = Diagnostics(config, graphdef, mixture, None)(params, (), ratios)
    params = jax.device_put(params, sharding.shardings(mesh, params))
    ratios = jax.jit(update_ratios)(params, params)
    on_mesh = Diagnostics(config, graphdef, mixture, mesh)(params, (), ratios)
    assert on_mesh.keys() == alone.keys()
    for name, value in alone.items():
        if "/gradients/" not in name:
            assert on_mesh[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_update_ratios_are_those_of_the_parameters():
    config = dataclasses.replace(CONFIG, num_layers=2, pattern=("recurrent",), scan_layers=True)
    graphdef, params = nnx.split(untrained(config), nnx.Param)
    tokens_BT = np.random.default_rng(0).integers(0, 64, (BATCH, TIME), np.int32)
    ones_BT = np.ones((BATCH, TIME), np.float32)
    batch = Batch(*map(jnp.asarray, (tokens_BT, tokens_BT, ones_BT, positions_of(0))))
    tx = make_optimizer(OptimConfig(warmup_steps=0), steps=10)
    step = make_train_step(graphdef, tx, observe=update_ratios)
    before = unstack(config, by_path(jax.tree.map(jnp.copy, params)))
    plain = make_train_step(graphdef, tx)(
        init_train_state(jax.tree.map(jnp.copy, params), tx), batch
    )
    state, metrics = step(init_train_state(params, tx), batch)
    assert OBSERVED not in plain[1]
    assert float(plain[1]["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
    got = by_name(config, "r", metrics[OBSERVED])
    after = unstack(config, by_path(state.params))
    expected = {
        f"r/{name}": float(jnp.linalg.norm(after[name] - w) / jnp.linalg.norm(w))
        for name, w in before.items()
        if w.ndim > 1 and not name.endswith("/b")
    }
    assert got.keys() == expected.keys()
    for name, ratio in expected.items():
        assert got[name] == pytest.approx(ratio, rel=1e-3), name


def test_the_batch_has_tokens_enough_for_its_ranks(short):
    assert shape(short, None) == (128, 32)
    wide = dataclasses.replace(
        short, sequence_length=8192, model=dataclasses.replace(short.model, width=4096)
    )
    assert shape(wide, None) == (16, 512)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, sequence=2))
    rows, length = shape(dataclasses.replace(short, sequence_length=6), mesh)
    assert rows % 4 == length % 2 == 0
    assert rows * length >= 4096
    with pytest.raises(UserError, match="diagnostics_every=-1"):
        dataclasses.replace(short, diagnostics_every=-1)
