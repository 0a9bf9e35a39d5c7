# SPDX-License-Identifier: Apache-2.0
"""Retention losses against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.dynamic import retention
from recurrentgemma.errors import UserError

RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32), "b": jnp.zeros(4)}


def logits(params, x):
    y = x @ params["w"]
    return y + jnp.broadcast_to(params["b"], y.shape)


def test_a_learner_like_its_teacher_is_not_pulled():
    """KS and BC have no gradient there, and EWC's is 2 F (theta - theta*)."""
    teacher_BA = logits(PARAMS, INPUTS)

    def loss(params):
        return retention.categorical_kl(teacher_BA, logits(params, INPUTS)).mean()

    for gradient in jax.tree.leaves(jax.grad(loss)(PARAMS)):
        np.testing.assert_allclose(gradient, 0, atol=1e-6)
    moved = jax.tree.map(lambda x: x + 0.1, PARAMS)
    assert loss(moved) == pytest.approx(0, abs=1e-6)  # a shift of all logits, and of their slopes
    fisher = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(4)}
    pulled = jax.grad(retention.distance)(moved, PARAMS, fisher)
    jax.tree.map(lambda g, f: np.testing.assert_allclose(g, 0.2 * f, rtol=1e-5), pulled, fisher)
    assert float(retention.distance(moved, PARAMS)) == pytest.approx(16 * 0.01, rel=1e-4)


def test_the_teacher_comes_first():
    """Where it is sure and the learner is not, and the other way round."""
    sure, unsure = jnp.array([[9.0, 0.0]]), jnp.array([[0.0, 0.0]])
    assert retention.categorical_kl(sure, unsure)[0] == pytest.approx(np.log(2), abs=2e-3)
    assert retention.categorical_kl(unsure, sure)[0] > 3
    wide, narrow = (jnp.zeros((1, 1)), jnp.ones((1, 1))), (jnp.zeros((1, 1)), jnp.full((1, 1), 0.1))
    assert retention.normal_kl(wide, narrow)[0] == pytest.approx(np.log(0.1) + 50 - 0.5, rel=1e-5)
    assert retention.normal_kl(wide, wide)[0] == 0


def test_the_fisher_of_a_linear_softmax():
    """x x' (p - p p'), its diagonal: p (1 - p) x^2."""
    fisher = retention.categorical_fisher(logits, PARAMS, INPUTS)
    p_NA = np.asarray(jax.nn.softmax(logits(PARAMS, INPUTS)))
    spread_NA = p_NA * (1 - p_NA)
    expected = np.einsum("ni,na->ia", np.square(INPUTS), spread_NA) / len(INPUTS)
    np.testing.assert_allclose(fisher["w"], expected, rtol=1e-5)
    np.testing.assert_allclose(fisher["b"], spread_NA.mean(0), rtol=1e-5)
    np.testing.assert_allclose(retention.root(fisher)["b"] ** 2, fisher["b"], rtol=1e-5)


def test_fishers_of_examples():
    """The empirical one is of squares of examples, and not the square of their mean; draws give the
    true one on average."""
    actions_N = jnp.array([0, 1, 0, 3, 2])
    p_NA = np.asarray(jax.nn.softmax(logits(PARAMS, INPUTS)))
    error_NA = np.eye(4)[np.asarray(actions_N)] - p_NA
    empirical = retention.categorical_fisher(logits, PARAMS, INPUTS, actions_N=actions_N)
    np.testing.assert_allclose(empirical["b"], np.square(error_NA).mean(0), rtol=1e-5)
    many = jnp.repeat(INPUTS, 2000, 0)
    drawn = retention.categorical_fisher(logits, PARAMS, many, key=jax.random.key(0))
    true = retention.categorical_fisher(logits, PARAMS, INPUTS)
    np.testing.assert_allclose(drawn["b"], true["b"], rtol=0.05)
    with pytest.raises(UserError, match="give one of them"):
        retention.categorical_fisher(
            logits, PARAMS, INPUTS, actions_N=actions_N, key=jax.random.key(0)
        )


def test_the_fisher_of_a_normal():
    """Of a location and a log-scale that are parameters: 1 / scale^2 and 2."""
    params = {"loc": jnp.array([0.3, -1.0]), "log_scale": jnp.array([0.0, 1.0])}

    def policy(p, x):
        return p["loc"] + 0 * x[0], jnp.exp(p["log_scale"])

    fisher = retention.normal_fisher(policy, params, INPUTS)
    np.testing.assert_allclose(fisher["loc"], np.exp([0.0, -2.0]), rtol=1e-4)
    np.testing.assert_allclose(fisher["log_scale"], 2, rtol=1e-4)


def test_a_weight_falls_to_its_floor():
    weight = retention.Weight(start=0.5, decay=0.5, floor=0.1)
    fallen = [float(weight.at(step)) for step in range(4)]
    assert fallen == pytest.approx([0.5, 0.25, 0.125, 0.1])
    for wrong in ({"start": 0.1, "floor": 0.2}, {"start": 1.0, "decay": 1.5}, {"start": -1.0}):
        with pytest.raises(UserError, match="expected"):
            retention.Weight(**wrong)
