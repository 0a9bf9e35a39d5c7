# SPDX-License-Identifier: Apache-2.0
"""Running moments are those of all values together."""

import jax.numpy as jnp
import numpy as np

from training.recipes.rl.moments import deviation, extended, no_moments


def test_batches_give_the_moments_of_all():
    values = np.random.default_rng(0).normal(3.0, 2.0, (50, 4)).astype(np.float32)
    moments = no_moments((4,))
    for batch in np.split(values, [7, 20]):
        moments = extended(moments, jnp.asarray(batch))
    assert float(moments.count) == 50
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation(moments), values.std(0), rtol=1e-5)


def test_nothing_yet_leaves_values_as_they_are_and_a_constant_is_divided_by_no_zero():
    assert float(deviation(no_moments())) == 1.0
    assert float(deviation(extended(no_moments(), jnp.ones(5)))) > 0
