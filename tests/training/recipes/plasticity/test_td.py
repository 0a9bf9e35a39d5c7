# SPDX-License-Identifier: Apache-2.0
"""Q-learning learns an MDP's values, and the probe leaves what it probes untouched."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.training.recipes.plasticity.small_pictures import small_pictures
from training.recipes.experiment import Cell
from training.recipes.plasticity import td
from training.recipes.plasticity.learner import Choices
from training.recipes.plasticity.td import Run, TDArm, train_td
from training.recipes.side_by_side import numbers_of, split
from training.recipes.vision.mlp import MLPConfig

ARM = TDArm(
    choices=Choices(network=MLPConfig(widths=(32,)), learning_rate=5e-3),
    images=40,
    discount=0.0,
    renewals=2,
    renew=200,
    batch_size=32,
    targets=2,
    probe_steps=5,
    probe_images=20,
)


def test_without_a_discount_values_become_the_rewards(monkeypatch):
    monkeypatch.setattr(td, "pictures", lambda source, count: small_pictures())
    ((_, numbers),) = train_td([Cell("x", ARM, 0)])
    assert numbers["loss"][1] < 0.5 * numbers["loss"][0]
    assert numbers["loss"][1] < 0.03
    assert numbers["probe_before"] > 0
    assert numbers["probe_after"] > 0
    assert {len(numbers[name]) for name in ("loss", "dead", "linearised")} == {2}


def test_the_target_is_what_the_network_was():
    arm = dataclasses.replace(ARM, discount=1.0)
    run, data = Run(split(arm)[0], small_pictures()), small_pictures()
    numbers = numbers_of([Cell("x", arm, 0)])[0]
    seed = jax.numpy.uint32(0)
    state = run.start(numbers, seed)
    arm, learner = run.learner(numbers)
    higher = jax.tree.map(lambda w: w, state.params)
    higher["head"]["bias"] = higher["head"]["bias"] + 7.0  # all values of the target are 7 more
    losses = []
    step = jax.jit(
        lambda target: run.step(arm, learner, state, target, data.labels_N, jax.random.key(0))[1]
    )
    for params in (state.params, higher):
        losses.append(float(step(state._replace(params=params))))
    assert losses[1] == pytest.approx(49, rel=0.7)
    assert losses[0] < 15


def test_the_probe_leaves_the_network_untouched():
    run = Run(split(ARM)[0], small_pictures())
    numbers, seed = numbers_of([Cell("x", ARM, 0)])[0], jax.numpy.uint32(0)
    state = run.start(numbers, seed)
    before = jax.tree.map(np.array, state.params)
    probed = jax.jit(run.probed)
    first, second = (float(probed(numbers, seed, state)) for _ in range(2))
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, before, state.params)
