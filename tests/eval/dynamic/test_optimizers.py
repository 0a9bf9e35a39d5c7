# SPDX-License-Identifier: Apache-2.0
"""The updates against their equations (config.OptimizerConfig), and any transformation of optax."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eval.dynamic.config import DynamicConfig, OptimizerConfig
from eval.dynamic.optimizers import anchored, make_tx
from recurrentgemma.errors import UserError

FIRST = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([[3.0]])}
NOW = {"a": jnp.array([1.5, -2.5, 0.0]), "b": jnp.array([[2.0]])}
GRADS = {"a": jnp.array([0.2, -0.1, 0.4]), "b": jnp.array([[-3.0]])}
SQUARES = {"a": jnp.array([0.04, 0.25, 1.0]), "b": jnp.array([[0.09]])}


def updates(config: OptimizerConfig, squares=None, segments=1, tx=None, times=1) -> Any:
    chain = make_tx(config, tx)
    anchor, state = (
        anchored(FIRST, DynamicConfig(optimizer=config), squares, segments),
        chain.init(FIRST),
    )
    for _ in range(times):
        change, state = chain.update(GRADS, state, NOW, anchor=anchor)
    return change


def assert_close(got, expected):
    for name, x in expected.items():
        np.testing.assert_allclose(got[name], x, rtol=1e-5)


def test_sgd_with_decay_and_clipping():
    config = OptimizerConfig(algorithm="sgd", learning_rate=0.5, decay=0.1, clip_norm=1.0)
    norm = np.sqrt(sum(float((g**2).sum()) for g in GRADS.values()))
    assert norm > 1
    assert_close(
        updates(config), {n: -0.5 * GRADS[n] / norm + 0.1 * (FIRST[n] - NOW[n]) for n in FIRST}
    )


def test_adam():
    config = OptimizerConfig(algorithm="adam", learning_rate=0.1, beta1=0.5, beta2=0.9)
    assert_close(updates(config), {n: -0.1 * jnp.sign(g) for n, g in GRADS.items()})


@pytest.mark.parametrize("of_2019", [False, True])
def test_rms_after_krause(of_2019):
    """2018: mean of squares, decay by R over its mean, at most 1 / decay. 2019: sum of squares, and
    R itself."""
    decay, eps = 0.4, 0.01
    config = OptimizerConfig(
        algorithm="rms",
        learning_rate=0.3,
        decay=decay,
        eps=eps,
        sum_of_squares=of_2019,
        normalise_decay=not of_2019,
        clip_decay=not of_2019,
    )
    rms = {n: np.sqrt(np.asarray(s) * (5 if of_2019 else 1)) for n, s in SQUARES.items()}
    share = rms
    if not of_2019:
        mean = np.mean([r.mean() for r in rms.values()])
        share = {n: np.minimum(r / mean, 1 / decay) for n, r in rms.items()}
        assert max(float(s.max()) for s in share.values()) < 1 / decay
    expected = {
        n: -0.3 * GRADS[n] / (rms[n] + eps) + decay * share[n] * (FIRST[n] - NOW[n]) for n in FIRST
    }
    assert_close(updates(config, SQUARES, 5), expected)


def test_decay_leads_no_further_than_to_the_checkpoint():
    config = OptimizerConfig(algorithm="rms", learning_rate=0.0, decay=0.8)
    squares = {"a": jnp.array([1e-4, 1e-4, 100.0]), "b": jnp.array([[1e-4]])}
    change = updates(config, squares)
    assert float(change["a"][2]) == pytest.approx(float(FIRST["a"][2] - NOW["a"][2]))


def test_a_tensor_without_statistics_stays():
    config = OptimizerConfig(algorithm="rms", learning_rate=0.1)
    change = updates(config, SQUARES | {"b": jnp.zeros((1, 1))})
    assert not change["b"].any()
    assert change["a"].all()


def test_any_transformation_of_optax_with_decay():
    config = OptimizerConfig(algorithm="sgd", learning_rate=0.5, decay=0.1)
    change = updates(config, tx=optax.sgd(0.2, momentum=0.5), times=2)
    assert_close(change, {n: -0.2 * 1.5 * GRADS[n] + 0.1 * (FIRST[n] - NOW[n]) for n in FIRST})


def test_statistics_that_are_missing_are_refused():
    config = OptimizerConfig(algorithm="rms")
    with pytest.raises(UserError, match="give training text"):
        anchored(FIRST, DynamicConfig(optimizer=config), None)
    with pytest.raises(UserError, match="lack 1 of the adapted parameters, such as 'b'"):
        anchored(FIRST, DynamicConfig(optimizer=config), {"a": SQUARES["a"]})
