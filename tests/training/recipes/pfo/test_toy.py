# SPDX-License-Identifier: Apache-2.0
"""The paper's toy ends where the authors' code does."""

import numpy as np
import pytest

from training.recipes.experiment import Cell
from training.recipes.pfo.toy import EXPECTED, TOY, Toy, conclude, measure, ratios


@pytest.mark.parametrize("alpha", EXPECTED)
def test_the_final_ratios(alpha):
    np.testing.assert_allclose(ratios(Toy(alpha=alpha))[-1], EXPECTED[alpha], atol=1e-3)


def test_the_verdict_has_them():
    cells = [Cell(name, arm, 0) for name, arm in TOY.arms.items()]
    numbers = {
        cell.arm: [{**one, "choices": {"alpha": cell.choices.alpha, "clip": 0.1}}]
        for cell, one in measure(cells)
    }
    verdict = conclude(numbers).verdict
    assert "alpha 3: x 1.103, y 1.253; alpha -2: x 0.941, y 1.141" in verdict
    assert "Beyond the clip end 3 of 4, below 1, where a positive advantage should not lead, 1" in (
        verdict
    )
