# SPDX-License-Identifier: Apache-2.0
"""Dead and linearised units are counted over all layers, ranks and the kernel beside them."""

import jax
import jax.numpy as jnp

from tests.drawn import normal
from training.recipes.plasticity.learner import Choices, Learner
from training.recipes.plasticity.panel import panel, units
from training.recipes.vision.mlp import MLPConfig


def test_units_and_ranks():
    choices = Choices(network=MLPConfig(widths=(4, 6)))
    learner = Learner(choices, image_shape=(3, 3, 1), numbers=2)
    state = learner.start(jax.random.key(0))
    for layer, bias in (("hidden_0", [-99.0, 99.0, 0, 0]), ("hidden_1", [99.0] * 3 + [0.0] * 3)):
        linear = {**state.params[layer]["linear"], "bias": jnp.asarray(bias)}
        state = state._replace(params={**state.params, layer: {"linear": linear}})
    x_NHWC = normal(1, (32, 3, 3, 1))
    shares, measured = jax.jit(
        lambda state: (units(learner, state, x_NHWC), panel(learner, state, x_NHWC))
    )(state)
    assert float(shares["dead_first"]) == 0.25
    assert float(shares["dead"]) >= 0.1
    assert float(shares["linearised"]) >= 0.4 - 1e-6
    assert 1 <= float(measured["kernel_rank"]) <= 32
    assert 1 <= float(measured["pca_rank"]) <= 6
    assert float(measured["leading"]) > 1
    assert float(measured["dead"]) == float(shares["dead"])
