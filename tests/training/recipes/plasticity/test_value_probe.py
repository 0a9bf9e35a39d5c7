# SPDX-License-Identifier: Apache-2.0
"""Targets of the probe are new, bounded, and around what the network says now."""

import jax
import numpy as np
import pytest

from tests.drawn import normal
from training.recipes.plasticity.learner import Choices, Learner
from training.recipes.plasticity.value_probe import value_task
from training.recipes.vision.mlp import MLPConfig


def test_the_score_is_the_error_to_the_sine_of_a_random_network():
    learner = Learner(Choices(network=MLPConfig(widths=(8,))), image_shape=(1, 1, 3), numbers=2)
    state = learner.start(jax.random.key(0))
    higher = jax.tree.map(lambda w: w, state.params)
    higher["head"]["bias"] = higher["head"]["bias"] + 100.0
    x = normal(1, (32, 1, 1, 3))
    scores = []
    for params in (state.params, higher):
        task = value_task(
            learner, state._replace(params=params), x, jax.random.key(2), batch_size=4
        )
        scores.append(float(task.score(params)))
        assert np.isfinite(task.loss(params, jax.random.key(3)))
    assert 0 < scores[0] < 4
    assert scores[1] == pytest.approx(scores[0], rel=1e-2)  # the offset is the network's own
