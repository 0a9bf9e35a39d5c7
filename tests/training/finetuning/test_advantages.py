# SPDX-License-Identifier: Apache-2.0
"""Advantages by their definition, a loop over steps."""

import jax.numpy as jnp
import numpy as np

from training.finetuning.advantages import advantages, cut_off


def test_the_sum_over_later_steps_of_the_same_episode():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 7, 3)).astype(np.float32)
    done, last = rng.random((7, 3)) < 0.3, rng.normal(size=3).astype(np.float32)
    got = advantages(*map(jnp.asarray, (reward, value, done, last)), discount=0.9, trace=0.8)
    after = np.concatenate([value[1:], last[None]])
    for start in range(7):
        for row in range(3):
            advantage, weight = 0.0, 1.0
            for t in range(start, 7):
                future = 0 if done[t, row] else 0.9 * after[t, row]
                advantage += weight * (reward[t, row] + future - value[t, row])
                if done[t, row]:
                    break
                weight *= 0.9 * 0.8
            np.testing.assert_allclose(got[start, row], advantage, atol=1e-5)


def test_what_was_cut_off_is_worth_what_comes_next():
    got = cut_off(jnp.ones(2), jnp.array([True, False]), jnp.full(2, 10.0), discount=0.5)
    np.testing.assert_array_equal(got, [6, 1])
