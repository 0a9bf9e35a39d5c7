# SPDX-License-Identifier: Apache-2.0
"""Interquartile means and their intervals."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.rl.returns import interquartile_mean, stratified_bootstrap


def test_the_middle_half():
    assert interquartile_mean(np.arange(8)) == 3.5  # of 2, 3, 4, 5
    assert interquartile_mean(np.array([0, 0, 1, 100, 100, 7])) == pytest.approx(
        (0.5 * 0 + 1 + 7 + 0.5 * 100) / 3
    )
    np.testing.assert_allclose(
        interquartile_mean(np.array([[1, 2, 3, 4], [4, 3, 2, 1]]), axis=1), [2.5, 2.5]
    )


def test_the_interval_draws_seeds_within_a_task():
    distant = np.array([[0.0, 0.0, 0.0], [100.0, 100.0, 100.0]])
    interval = stratified_bootstrap(distant)
    assert interval.low == interval.mean == interval.high == 50  # no seed differs
    noisy = stratified_bootstrap(np.random.default_rng(0).normal(size=(2, 10)))
    assert noisy.low < noisy.mean < noisy.high
    assert np.isnan(stratified_bootstrap([[1.0], [2.0]]).low)


@pytest.mark.parametrize("values", [[1.0], [[]], [[float("nan")]]])
def test_what_has_no_mean(values):
    with pytest.raises(UserError, match=r"returns of shape|not finite"):
        stratified_bootstrap(values)
