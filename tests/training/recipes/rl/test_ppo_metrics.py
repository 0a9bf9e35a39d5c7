# SPDX-License-Identifier: Apache-2.0
"""The paper's metrics on a policy whose ratios are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.recipes.rl.test_ppo import ROLLOUT, updated
from training.recipes.rl.ppo_metrics import representation, trust_region


def test_a_policy_that_has_not_moved():
    agent, state, _, _ = updated()
    trust = trust_region(agent, state, state, ROLLOUT)
    assert float(trust["kl"]) == pytest.approx(0, abs=1e-6)
    assert float(trust["clipped"]) == 0
    assert np.isnan(trust["excess_ratio"])


def test_ratios_above_over_ratios_below():
    agent, state, _, _ = updated()
    head = state.actor["head"]
    pushed = {**head, "bias": head["bias"] + jnp.array([2.0, -2.0])}
    new = state._replace(actor={**state.actor, "head": pushed})
    trust = jax.tree.map(float, trust_region(agent, state, new, ROLLOUT))
    assert trust["ratio_below"] < 0.8 < 1.2 < trust["ratio_above"]
    assert trust["excess_ratio"] == pytest.approx(trust["ratio_above"] / trust["ratio_below"])
    assert trust["kl"] > 0
    assert trust["feature_change"] == 0


def test_features_that_are_all_dead():
    agent, state, _, _ = updated()
    layer = state.actor["hidden_0"]["linear"]
    dead = {"linear": {**layer, "bias": jnp.full(8, -100.0)}}
    state = state._replace(actor={**state.actor, "hidden_0": dead})
    numbers = jax.tree.map(float, representation(agent, state, ROLLOUT))
    assert numbers["dead"] == 8
    assert numbers["pca_rank"] == 0
    assert numbers["policy_variance"] == pytest.approx(0, abs=1e-9)
    assert numbers["critic_pca_rank"] > 1
