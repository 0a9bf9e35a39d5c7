# SPDX-License-Identifier: Apache-2.0
"""Fisher information against its definition, on any mesh, on disk, and of another model."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma import sharding
from recurrentgemma.errors import UserError
from recurrentgemma.losses import Batch
from recurrentgemma.params import by_path
from recurrentgemma.sharded import place
from recurrentgemma.sharding import MeshConfig, make_mesh
from tests.drawn import untrained
from tests.training.small_rows import CONFIG
from tests.training.test_sharded_step import batches, initial
from training.retention import fisher

TINY = dataclasses.replace(CONFIG, vocab_size=8, width=8, mlp_width=8, lru_width=8, num_layers=1)


def rows(seed: int, batch: int, time: int) -> Batch:
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, TINY.vocab_size, (2, batch, time), np.int32)
    positions = np.broadcast_to(np.arange(time, dtype=np.int32), (batch, time))
    weights = np.ones((batch, time), np.float32)
    weights[:, 0] = 0  # of a target that is not learned from
    return Batch(*map(jnp.asarray, (tokens, targets, weights, positions)))


def test_it_is_the_definition():
    """The mean over tokens of the expected square of d log p, from drawn tokens: within what 3,000
    draws leave."""
    model = untrained(TINY)
    graphdef, params = nnx.split(model, nnx.Param)
    batch = rows(0, 2, 4)

    @jax.jit
    def by_definition(params: Any) -> Any:
        def log_p(params: Any) -> jax.Array:
            logits, _ = nnx.merge(graphdef, params)(batch.tokens_BT, positions=batch.positions_BT)
            return jax.nn.log_softmax(logits)

        p_BTV = jnp.exp(log_p(params)) * batch.weights_BT[..., None] / batch.weights_BT.sum()
        return jax.tree.map(
            lambda d: jnp.tensordot(p_BTV, jnp.square(d), 3), jax.jacrev(log_p)(params)
        )

    got = fisher.estimate(model, itertools.repeat(batch), count=3000)
    values = by_path(got)
    for name, want in by_path(by_definition(params)).items():
        scale = float(jnp.max(want))
        np.testing.assert_allclose(values[name], want, atol=0.12 * scale, err_msg=name)
        np.testing.assert_allclose(values[name].sum(), want.sum(), rtol=0.1, err_msg=name)


def test_empirical_it_is_of_the_data():
    """One row at a time: the square of the gradient of a row's tokens."""
    model = untrained(TINY)
    graphdef, params = nnx.split(model, nnx.Param)
    given = [rows(seed, 1, 4) for seed in range(3)]

    @jax.jit
    def gradient(params: Any, batch: Batch) -> Any:
        def log_p(params: Any) -> jax.Array:
            logits, _ = nnx.merge(graphdef, params)(batch.tokens_BT, positions=batch.positions_BT)
            taken = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets_BT[..., None], 2)
            return jnp.sum(taken[..., 0] * batch.weights_BT)

        return jax.grad(log_p)(params)

    got = fisher.estimate(model, iter(given), count=3, kind="empirical")
    squares = [jax.tree.map(jnp.square, gradient(params, batch)) for batch in given]
    want = jax.tree.map(lambda *x: sum(x) / 9, *squares)  # three tokens a row
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), got, want)


@pytest.mark.parametrize("kind", ["true", pytest.param("empirical", marks=pytest.mark.slow)])
def test_on_a_mesh(kind: Any):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
    graphdef, start = initial(CONFIG)
    params = jax.tree.map(jnp.asarray, start)
    chosen = lambda path, _: path[-1] == "weight"  # noqa: E731
    given = batches(2)
    one = fisher.estimate(
        nnx.merge(graphdef, params), iter(given), count=2, kind=kind, chosen=chosen
    )
    one = jax.tree.map(np.asarray, one)
    placed = jax.tree.map(jax.device_put, params, sharding.shardings(mesh, params))
    many = fisher.estimate(
        nnx.merge(graphdef, placed),
        iter(Batch(*place(mesh, sharding.BATCH, *batch)) for batch in given),
        count=2,
        kind=kind,
        chosen=chosen,
        mesh=mesh,
    )
    assert {path.split("/")[-1] for path in by_path(many)} == {"weight"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), b, rtol=2e-3, atol=1e-6), many, one
    )


def test_on_disk(tmp_path: Path):
    _, start = initial(CONFIG)
    like = jax.tree.map(jnp.asarray, start)
    fisher.save(tmp_path / "fisher", like, CONFIG, of="base")
    got = fisher.load(tmp_path / "fisher", like, CONFIG, None)
    jax.tree.map(np.testing.assert_array_equal, got, like)
    other = dataclasses.replace(CONFIG, mlp_width=64)
    with pytest.raises(UserError, match="is of another model: mlp_width=96, and this one has 64"):
        fisher.load(tmp_path / "fisher", like, other, None)
    with pytest.raises(UserError, match="no Fisher information lies there"):
        fisher.load(tmp_path / "elsewhere", like, CONFIG, None)


def test_without_tokens():
    model = untrained(TINY)
    empty = rows(0, 1, 4)._replace(weights_BT=jnp.zeros((1, 4)))
    with pytest.raises(UserError, match="no tokens to estimate"):
        fisher.estimate(model, itertools.repeat(empty), count=1)
