# SPDX-License-Identifier: Apache-2.0
"""The MDPs' rewards and transitions, counted over many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.recipes.plasticity import mdp

TRUE_N = jnp.repeat(jnp.arange(4, dtype=jnp.int32), 5)
OF_CLASS_CM = jnp.arange(20, dtype=jnp.int32).reshape(4, 5)


@pytest.mark.parametrize("kind", ["easy", "hard", "sparse"])
def test_rewards_and_transitions(kind: str):
    labels_N = mdp.labels(mdp.MDPS[kind], TRUE_N, 4, jax.random.key(1))
    assert bool((labels_N == TRUE_N).all()) == (kind != "hard")
    batch = mdp.transitions(mdp.MDPS[kind], labels_N, OF_CLASS_CM, TRUE_N, jax.random.key(0), 4000)
    image, action, reward, following = map(np.asarray, batch)
    state, then = np.asarray(TRUE_N)[image], np.asarray(TRUE_N)[following]
    assert np.bincount(image, minlength=20).min() > 120
    own = action == state
    if kind == "sparse":
        np.testing.assert_array_equal(reward, own & (state == 3))
        np.testing.assert_array_equal(then[own], (state[own] + 1) % 4)
        assert np.bincount(then[~own], minlength=4).min() > 600
        assert np.mean(then[~own] == (state[~own] + 1) % 4) < 0.3
    else:
        np.testing.assert_array_equal(reward, action == np.asarray(labels_N)[image])
        assert np.bincount(then[own], minlength=4).min() > 180
