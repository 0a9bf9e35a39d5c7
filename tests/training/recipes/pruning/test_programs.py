# SPDX-License-Identifier: Apache-2.0
"""The scan sees every batch; accuracy is that of the images; one compilation for one shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from tests.training.recipes.pruning.test_widths import CLASSES, NETWORKS, SHAPE, of
from training.recipes.pruning import programs
from training.recipes.pruning.choices import Training

CONFIG = NETWORKS["mlp"]


def test_a_unit_that_lives_on_one_image_is_alive(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "SCANNED", 4)
    monkeypatch.setattr(programs, "PART", 2)
    network = of(CONFIG)
    params, stats = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 2))
    params["hidden_0"]["norm"]["bias"] = params["hidden_0"]["norm"]["bias"] - 30.0
    x_NHWC = jnp.zeros((11, *SHAPE)).at[9].set(100.0 * normal(1, SHAPE))
    dead = programs.scan_program(CONFIG, SHAPE, CLASSES)(params, stats, x_NHWC)
    z_SBU = jax.vmap(network.apply, in_axes=(0, 0, None))(params, stats, x_NHWC).hidden
    expected = (z_SBU["hidden_0"].a <= 0).all(1)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(dead["hidden_0"], expected)
    first = programs.scan_program(CONFIG, SHAPE, CLASSES)(params, stats, x_NHWC[:8])
    assert first["hidden_0"].all()


def test_accuracy_is_that_of_the_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "PART", 4)
    network = of(CONFIG)
    params, stats = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 2))
    x_NHWC = normal(1, (8, *SHAPE))
    second = [jax.tree.map(lambda x: x[1], tree) for tree in (params, stats)]
    predicted = network.apply(second[0], second[1], x_NHWC)
    y_N = predicted.outputs_BO.argmax(-1).astype(jnp.int32).at[:2].add(1) % CLASSES
    got = programs.accuracy_program(CONFIG, SHAPE, CLASSES)(params, stats, x_NHWC, y_N)
    assert float(got[1]) == 0.75


def test_an_unknown_optimizer():
    with pytest.raises(UserError, match="optimizer='adam': expected adamw or sgdm"):
        programs.make_optimizer(Training(optimizer="adam"))  # type: ignore[arg-type]
