# SPDX-License-Identifier: Apache-2.0
"""The clipped surrogate and what holds features, on numbers whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np

from training.finetuning.policy_losses import (
    clipped_loss,
    feature_loss,
    ratio_of,
    standardised,
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
