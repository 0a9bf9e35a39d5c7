# SPDX-License-Identifier: Apache-2.0
"""What was seen often is predicted, what is new is not; and the scale of both is one."""

import jax
import jax.numpy as jnp
import numpy as np

from training.recipes.rl.curiosity import LEAKY, Curiosity, CuriosityChoices
from training.recipes.rl.networks import ConvConfig, ConvLayer

TARGET = ConvConfig(layers=(ConvLayer(4, 3, 2),), widths=(), style=LEAKY)
RND = Curiosity(CuriosityChoices(target=TARGET, predictor=TARGET, outputs=8), (6, 6, 1))


def test_novelty_falls_where_the_predictor_learns_and_the_target_stays():
    random = np.random.default_rng(0)
    old, new = (jnp.asarray(random.integers(0, 255, (8, 6, 6, 1)), jnp.uint8) for _ in range(2))
    state = RND.seen(RND.start(jax.random.key(0), 2), jnp.concatenate([old, new]))

    @jax.jit
    def step(predictor, key):
        grads = jax.grad(lambda one: RND.loss(state, one, old, key))(predictor)
        return jax.tree.map(lambda x, g: x - 0.01 * g, predictor, grads)

    predictor = state.predictor
    for number in range(200):
        predictor = step(predictor, jax.random.key(number))
    before, after = (RND.novelty(state, one, old).mean() for one in (state.predictor, predictor))
    assert after < 0.2 * before
    assert after < 0.5 * RND.novelty(state, predictor, new).mean()
    of_target = jax.grad(lambda one: RND.novelty(one, predictor, old).sum())(state).target
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(of_target))


def test_rewards_are_novelty_over_the_deviation_of_its_sums():
    state = RND.start(jax.random.key(0), 2)
    novelty_TB = jnp.asarray([[1.0, 4.0], [3.0, 2.0]])
    state, reward_TB = RND.rewards(state, novelty_TB)
    sums = np.array([[1.0, 4.0], [3.0 + 0.99, 2.0 + 0.99 * 4]])
    np.testing.assert_allclose(reward_TB, novelty_TB / sums.std(), rtol=1e-5)
    np.testing.assert_allclose(state.sum_B, sums[1], rtol=1e-6)  # it goes on with these


def test_no_share_trains_nothing():
    still = Curiosity(CuriosityChoices(target=TARGET, predictor=TARGET, share=0.0), (6, 6, 1))
    state = still.start(jax.random.key(0), 1)
    assert float(still.loss(state, state.predictor, jnp.ones((3, 6, 6, 1)), jax.random.key(1))) == 0
