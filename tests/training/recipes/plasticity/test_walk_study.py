# SPDX-License-Identifier: Apache-2.0
"""The random walk takes steps of the given length, and both ways begin at the same place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.recipes.plasticity.small_pictures import small_pictures
from training.recipes.experiment import Cell
from training.recipes.plasticity import walk_study
from training.recipes.plasticity.learner import Choices
from training.recipes.plasticity.td import TDArm
from training.recipes.plasticity.walk_study import conclude_walks, train_walks, walk_arms, walked
from training.recipes.vision.mlp import MLPConfig


def test_a_step_has_the_length_and_no_direction_of_its_own():
    params = {"a": jnp.ones((3, 4)), "b": jnp.zeros(5)}
    steps = [
        jax.tree.map(jnp.subtract, walked(params, jnp.asarray(0.7), jax.random.key(n)), params)
        for n in (0, 1)
    ]
    assert all(np.asarray(optax.tree.norm(step)) == pytest.approx(0.7, rel=1e-5) for step in steps)
    assert np.abs(optax.tree.vdot(*steps)) < 0.4


def test_both_ways_of_a_seed(monkeypatch):
    monkeypatch.setattr(walk_study, "pictures", lambda source, count: small_pictures())
    choices = Choices(network=MLPConfig(widths=(6,)), algorithm="sgd", learning_rate=0.05)
    td = TDArm(choices=choices, images=40, renewals=2, renew=30, batch_size=16)
    arms = walk_arms(td, examples=20, pairs=12, iterations=8, vectors=2)
    cells = [Cell(name, arm, seed) for name, arm in arms.items() for seed in (0, 1)]
    numbers = {(cell.arm, cell.seed): one for cell, one in train_walks(cells)}
    assert len(numbers) == 4
    descent, walk = numbers["gradient descent", 1], numbers["random walk", 1]
    np.testing.assert_allclose(
        descent["before"]["spectrum"]["values_RK"],
        walk["before"]["spectrum"]["values_RK"],
        rtol=1e-3,
        atol=1e-4,
    )
    assert descent["after"]["spectrum"] != walk["after"]["spectrum"]
    assert 0 <= descent["after"]["negative"] <= 1
    by_arm = {arm: [numbers[arm, seed] for seed in (0, 1)] for arm in arms}
    concluded = conclude_walks(by_arm)
    assert "gradient descent, after: " in concluded.verdict
    assert len(concluded.tables[0].rows) == 4
    assert dataclasses.is_dataclass(arms["random walk"])
