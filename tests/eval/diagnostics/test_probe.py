# SPDX-License-Identifier: Apache-2.0
"""The plasticity probe: it tells a network that cannot learn from one that can, and changes
neither."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eval.diagnostics.probe import Task, classification, fit, probe, regression, sine_targets
from tests.drawn import normal

STEPS = 60


def network(key: jax.Array, outputs: int) -> dict[str, jax.Array]:
    a, b = jax.random.split(key)
    return {"in": jax.random.normal(a, (8, 64)), "out": jax.random.normal(b, (64, outputs)) / 8}


def apply(params: dict[str, jax.Array], x_NI: jax.Array) -> jax.Array:
    return jax.nn.relu(x_NI @ params["in"]) @ params["out"]


@pytest.fixture(scope="module")
def x_NI() -> jax.Array:
    return normal(0, (64, 8))


def dead(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """All inputs negative: there is no gradient but the last layer's, of features that are 0."""
    return params | {"in": jnp.zeros_like(params["in"])}


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_dead_network_learns_nothing_and_a_fresh_one_does(kind: str, x_NI):
    keys = jax.random.split(jax.random.key(1), 4)
    params, fresh, random = (network(key, 4) for key in keys[:3])

    @jax.jit
    def run(params, fresh):
        if kind == "regression":
            task = regression(apply, params, random, x_NI, batch_size=32)
        else:
            task = classification(apply, x_NI, classes=4, batch_size=32, key=keys[3])
        return probe(params, fresh, task, optax.adam(1e-2), steps=STEPS, key=keys[3]), task.score(
            params
        )

    before = jax.tree.map(np.array, params)
    alive, at_start = run(params, fresh)
    assert alive.loss < 0.7 * at_start
    assert alive.losses_K.shape == alive.fresh_losses_K.shape == (STEPS,)
    assert abs(alive.loss - alive.fresh_loss) < 0.3 * at_start  # as fresh as the fresh one
    jax.tree.map(np.testing.assert_array_equal, params, before)
    lost, at_start = run(dead(params), fresh)
    assert float(lost.loss) == pytest.approx(float(at_start), rel=1e-5)
    assert lost.loss > lost.fresh_loss + 0.1
    if kind == "classification":  # the same batches in the same order, from the same parameters
        assert float(lost.fresh_loss) == pytest.approx(float(alive.fresh_loss), rel=1e-5)
        same = run(fresh, fresh)[0]
        np.testing.assert_array_equal(same.losses_K, same.fresh_losses_K)


def test_targets_are_around_the_mean_prediction(x_NI):
    params, random = network(jax.random.key(2), 3), network(jax.random.key(3), 3)
    y_NO = sine_targets(apply, params, random, x_NI)
    mean_O = np.mean(np.asarray(apply(params, x_NI)), 0)
    assert y_NO.shape == (64, 3)
    assert np.all(np.abs(np.asarray(y_NO) - mean_O) <= 1 + 1e-5)
    np.testing.assert_allclose(np.mean(y_NO, 0), mean_O, atol=0.4)  # sines of random phases
    assert np.std(np.asarray(y_NO) - mean_O) == pytest.approx(np.sqrt(0.5), abs=0.1)
    flat_N = sine_targets(lambda p, x: apply(p, x)[:, 0], params, random, x_NI)
    assert flat_N.shape == (64,)


def test_the_budget_is_the_optimizers():
    """Three steps of gradient descent on w^2, whose loss is logged before each."""
    task = Task(lambda w, key: jnp.square(w), jnp.square)
    w, losses_K = fit(jnp.asarray(1.0), task.loss, optax.sgd(0.25), steps=3, key=jax.random.key(0))
    assert float(w) == 0.125
    assert losses_K.tolist() == [1.0, 0.25, 0.0625]


def test_seeds_are_vmapped(x_NI):
    keys = jax.random.split(jax.random.key(5), 3)

    def one(key: jax.Array) -> jax.Array:
        task = classification(apply, x_NI, classes=4, batch_size=16, key=key)
        params = network(key, 4)
        return probe(params, dead(params), task, optax.adam(1e-2), steps=20, key=key).loss

    vmapped, alone = jax.vmap(one)(keys), jnp.stack([one(key) for key in keys])
    np.testing.assert_allclose(vmapped, alone, rtol=1e-4)
