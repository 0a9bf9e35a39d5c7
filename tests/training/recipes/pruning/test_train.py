# SPDX-License-Identifier: Apache-2.0
"""A training that removes its dead units is the same training without them; baselines reach their
size; seeds do not depend on each other."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.pruning.choices import Training
from training.recipes.pruning.train import SCORES, train
from training.recipes.vision.layers import Style
from training.recipes.vision.mlp import MLPConfig


@pytest.fixture(scope="module")
def small(patches: str) -> Training:
    return Training(
        network=MLPConfig(widths=(32, 16), style=Style(norm="batch")),
        images=patches,
        penalty=0.3,
        noise=0.0,
        steps=140,
        looks=7,
        batch_size=32,
        learning_rate=2e-2,
        least_dead=0.0,
    )


def test_removal_changes_nothing_but_the_size(small: Training):
    kept = train(dataclasses.replace(small, removes=False), [0, 1])
    cut = train(small, [0, 1])
    for one, other in zip(kept, cut, strict=True):
        assert one["units"] < 44
        assert one["live"] == other["live"]
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-3)
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.02)
        assert one["parameters_left"] == pytest.approx(other["parameters_left"])
        assert one["accuracy"] > 0.9
        assert other["parameters_left"] < 0.95
    (alone,) = train(small, [1])
    assert alone["live"] == cut[1]["live"]


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("magnitude", marks=pytest.mark.slow),
        pytest.param("random", marks=pytest.mark.slow),
        "snap",
        pytest.param("earlycrop", marks=pytest.mark.slow),
        pytest.param("small", marks=pytest.mark.slow),
    ],
)
def test_a_baseline_keeps_the_part_that_it_is_told(small: Training, method):
    baseline = dataclasses.replace(small, method=method, density=0.5, penalty=0.0)
    for one in train(baseline, [0, 1]):
        assert one["units"] <= 24
        assert one["units"] >= 20  # some may have died, too
        assert one["accuracy"] > 0.9


def test_a_network_without_scales_has_nothing_to_penalise(small: Training):
    with pytest.raises(UserError, match="this network's units have none"):
        train(dataclasses.replace(small, network=MLPConfig(widths=(8,))), [0])


def test_scores_that_are_not_finite_remove_nothing(small: Training, monkeypatch):
    def nan_scores(loss, params, shared, masks):
        return {name: jnp.full_like(mask, jnp.nan) for name, mask in masks.items()}

    monkeypatch.setitem(SCORES, "snap", nan_scores)
    with pytest.raises(UserError, match="the scores of snap are not finite on this network"):
        train(dataclasses.replace(small, method="snap", density=0.5), [0])
