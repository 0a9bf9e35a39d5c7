# SPDX-License-Identifier: Apache-2.0
"""The clipped surrogate and what holds features, on numbers whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np

from training.finetuning.policy_losses import (
    clipped_loss,
    divergence,
    feature_loss,
    group_advantages,
    mean_where,
    ratio_of,
    standardised,
    standardised_where,
)


def test_beyond_the_clip_there_is_no_gradient():
    log_ratio = jnp.log(jnp.array([1.0, 1.3, 1.3, 0.7, 0.7]))
    advantage = jnp.array([1.0, 1.0, -1.0, 1.0, -1.0])
    losses = clipped_loss(log_ratio, advantage, 0.2)
    np.testing.assert_allclose(losses, [-1, -1.2, 1.3, -0.7, 0.8], rtol=1e-6)
    grads = jax.grad(lambda x: clipped_loss(x, advantage, 0.2).sum())(log_ratio)
    np.testing.assert_allclose(grads, [-1, 0, 1.3, -0.7, 0], atol=1e-6)


def test_a_ratio_stays_finite():
    assert np.isfinite(ratio_of(jnp.array([500.0, -500.0]))).all()


def test_advantages_are_standardised():
    got = standardised(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose([got.mean(), got.std()], [0, 1], atol=1e-6)
    np.testing.assert_array_equal(standardised(jnp.ones(4)), 0)


def test_features_are_held_by_a_mean():
    np.testing.assert_allclose(feature_loss(jnp.ones((2, 4)), jnp.zeros((2, 4))), [1, 1])


def test_the_divergence_of_samples_is_that_of_the_distributions():
    p, reference = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.2, 0.2, 0.6])
    samples = divergence(jnp.log(p), jnp.log(reference))
    assert (np.asarray(samples) >= 0).all()
    np.testing.assert_allclose(jnp.sum(p * samples), jnp.sum(p * jnp.log(p / reference)), 1e-5)
    np.testing.assert_array_equal(divergence(jnp.log(p), jnp.log(p)), 0)


def test_the_advantages_of_groups():
    reward = jnp.array([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0])
    centred = group_advantages(reward, 4, divide=False)
    np.testing.assert_allclose(centred, [0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0])
    divided = group_advantages(reward, 4, divide=True)
    np.testing.assert_allclose(divided, [1, -1, -1, 1, 0, 0, 0, 0], atol=1e-6)


def test_only_real_tokens_count():
    x = jnp.array([[1.0, 3.0, 99.0], [5.0, 99.0, 99.0]])
    real = jnp.array([[True, True, False], [True, False, False]])
    assert float(mean_where(x, real)) == 3.0
    assert float(mean_where(x, real, "answer")) == 3.5
    got = standardised_where(x, real)
    want = standardised(jnp.array([1.0, 3.0, 5.0]))
    np.testing.assert_allclose(got[real], want, rtol=1e-6)
    np.testing.assert_allclose(standardised_where(x, real, divide=False)[real], [-2, 0, 2])
