# SPDX-License-Identifier: Apache-2.0
"""The walk, its gradient, and what holds the policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.recipes.forgetting.apples import (
    CLOSE,
    FAR,
    Policy,
    Walk,
    retrieve,
    teach,
    walk_episodes,
)

WALK = Walk(c=0.5, apple=2.0, teaching=60, updates=60, episodes=64, longest=20, measured=3)
SURE = Policy(jnp.float32(-60), jnp.float32(0))  # right in CLOSE, left in FAR


def test_a_perfect_walk_takes_as_many_steps_as_it_must():
    episodes = walk_episodes(WALK, SURE, jax.random.key(0), phase=CLOSE)
    assert episodes.steps.tolist() == [2, 2]
    assert float(episodes.success) == 1
    back = walk_episodes(WALK, SURE, jax.random.key(0), phase=FAR)
    assert back.steps.tolist() == [0, 2]
    away = jax.tree.map(jnp.negative, SURE)
    assert float(walk_episodes(WALK, away, jax.random.key(0), phase=CLOSE).success) == 0


def test_the_gradient_is_that_of_the_expected_return():
    """An apple one step away and one step in all: d/dz (p - (1 - p)) = 2 p (1 - p)."""
    walk = dataclasses.replace(WALK, apple=1.0, longest=1, episodes=200_000)
    policy = Policy(jnp.float32(0.4), jnp.float32(0.3))
    gradient_2 = walk_episodes(walk, policy, jax.random.key(1), phase=CLOSE).gradient
    p = float(jax.nn.sigmoid(policy.logits(0.5)[CLOSE]))
    assert gradient_2[CLOSE] == pytest.approx(2 * p * (1 - p), abs=0.005)
    assert gradient_2[FAR] == 0


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_what_is_known_of_far_lies_in_the_bias_where_c_is_small(c):
    policy = teach(dataclasses.replace(WALK, c=c), jax.random.key(0))
    assert float(policy.b / policy.w) == pytest.approx(1 / c, rel=1e-3)
    assert float(policy.b) < 0


def test_what_holds_the_policy():
    """The weight at which each keeps FAR as it was, and fine-tuning does not."""
    key = jax.random.key(0)

    def curve(**changes):
        walk = dataclasses.replace(WALK, c=0.1, learning_rate=5e-3, **changes)
        return retrieve(walk, key)

    def least_far(**changes):
        return float(curve(**changes)["far"].min())

    before = float(curve()["taught"])
    alone = least_far()
    assert alone < before - 0.01
    for held in ({"bc": 100.0}, {"ewc": 100.0}, {"l2": 100.0}, {"ks": 100.0, "ks_decay": 1.0}):
        assert alone + 0.005 < least_far(**held), held


def test_the_known_phase_may_be_the_first_one():
    """CLOSE is taught alone, and what holds the policy holds it there."""
    walk = dataclasses.replace(WALK, c=1.0, known=CLOSE)
    episodes = walk_episodes(walk, SURE, jax.random.key(0), phase=CLOSE, alone=True)
    assert episodes.steps.tolist() == [2, 0]
    assert float(episodes.success) == 1
    taught = teach(walk, jax.random.key(0))
    assert float(taught.b / taught.w) == pytest.approx(-1, rel=1e-3)
    assert float(taught.b) > 0
    curves = retrieve(dataclasses.replace(walk, bc=1e3), jax.random.key(0))
    assert float(curves["taught"]) > 0.6
    np.testing.assert_allclose(curves["close"], curves["taught"], atol=0.05)


def test_from_zero():
    curves = retrieve(dataclasses.replace(WALK, taught=False), jax.random.key(0))
    np.testing.assert_allclose(curves["taught"], 0.5)
    assert curves["success"].shape == (3,)
    assert curves["success"][-1] > curves["success"][0]
