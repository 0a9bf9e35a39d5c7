# SPDX-License-Identifier: Apache-2.0
"""The paper's two traps, and the formulas that give them."""

import numpy as np
import pytest

from training.recipes.experiment import Cell
from training.recipes.forgetting.mdp import MDP, PRINTED, TwoStates, conclude, measure, stationary


@pytest.mark.parametrize("gap", PRINTED)
def test_the_traps(gap):
    arm = next(choices for name, choices in MDP.arms.items() if name.startswith(gap))
    first, *_, last = stationary(arm)["optima"]
    np.testing.assert_allclose(first, PRINTED[gap], atol=1e-3)
    np.testing.assert_allclose(last, [1, 10], atol=1e-9)


def test_a_value_is_that_of_the_walk():
    """Against the sum of discounted rewards of the two states' equations."""
    mdp, theta = TwoStates(f="hinge", r0=0.3, r1=-0.4), np.array([0.2, 0.9, 0.99])
    for one, value in zip(theta, mdp.value(theta), strict=True):
        f = float(mdp.stays(np.array(one)))
        leave = np.array([[1 - one, one], [1 - f, f]])
        reward = np.array([one + 0.3 * (1 - one), f - 0.4 * (1 - f)])
        assert value == pytest.approx(np.linalg.solve(np.eye(2) - 0.9 * leave, reward)[0])


def test_the_verdict():
    cells = [Cell(name, arm, 0) for name, arm in MDP.arms.items()]
    numbers = {cell.arm: [{**one, "choices": vars(cell.choices)}] for cell, one in measure(cells)}
    verdict = conclude(numbers).verdict
    assert "coverage, fold: a trap at theta 0.111 of value 2.222;" in verdict
    assert "coverage, hinge as printed: no trap, which is not" in verdict
