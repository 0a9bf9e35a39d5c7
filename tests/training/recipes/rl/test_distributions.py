# SPDX-License-Identifier: Apache-2.0
"""Densities integrate to 1, divergences are what their definitions say, draws stay in bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.recipes.rl.distributions import Categorical, TanhNormal

NORMAL = TanhNormal(low=(-2.0,), high=(2.0,))
OUTPUTS = jnp.array([[0.3, -0.4]])
OTHER = jnp.array([[-0.1, 0.2]])


def test_the_density_of_an_action_integrates_to_one():
    share = jnp.linspace(-0.99999, 0.99999, 200_001)  # of the tanh
    log_p = NORMAL.log_prob(jnp.broadcast_to(OUTPUTS, (share.size, 2)), jnp.arctanh(share)[:, None])
    assert np.trapezoid(np.exp(log_p), share) == pytest.approx(1, abs=1e-3)


def test_actions_lie_within_their_bounds():
    drawn = NORMAL.sample(jnp.full((1000, 2), 3.0), jax.random.key(0))
    action = NORMAL.action(drawn)
    assert float(jnp.abs(action).max()) <= 2
    np.testing.assert_allclose(NORMAL.action(jnp.zeros((1, 1))), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (NORMAL, OUTPUTS, OTHER),
        (Categorical(actions=3), jnp.array([[1.0, 0, -1]]), jnp.array([[0.0, 1, 0]])),
    ],
)
def test_divergence_and_entropy_are_means_over_draws(kind, old, new):
    many = jnp.broadcast_to(old, (100_000, old.shape[1]))
    drawn = kind.sample(many, jax.random.key(0))
    other = jnp.broadcast_to(new, many.shape)
    log_p, log_q = kind.log_prob(many, drawn), kind.log_prob(other, drawn)
    assert float(jnp.mean(log_p - log_q)) == pytest.approx(float(kind.kl(old, new)[0]), rel=0.03)
    entropy = float(jnp.mean(kind.entropy(many, jax.random.key(1))))
    assert -float(jnp.mean(log_p)) == pytest.approx(entropy, rel=0.03)
    assert float(kind.kl(old, old)[0]) == pytest.approx(0, abs=1e-6)
