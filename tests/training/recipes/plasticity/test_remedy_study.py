# SPDX-License-Identifier: Apache-2.0
"""The arms of the remedies and of the fractions, and what is concluded of known numbers."""

from training.recipes.plasticity.remedy_study import (
    FRACTION,
    REMEDIES,
    conclude_fractions,
    conclude_remedies,
)


def cells(*accuracy: float) -> list[dict]:
    one = {
        "accuracy": list(accuracy),
        "points": {"dead": [0.1], "linearised": [0.2]},
        "panel": {"kernel_rank": [5.0], "weights_norm": [9.0]},
    }
    return [one, one]


def test_remedies():
    assert len(REMEDIES.arms) == 8
    l2 = {arm.choices.l2 for arm in REMEDIES.arms.values()}
    assert l2 == {0.0, 1e-5, 1e-4}
    arms = {"no norm, L2 0": cells(0.9, 0.5, 0.1), "layer norm, L2 0.0001": cells(1.0, 1.0, 1.0)}
    concluded = conclude_remedies(arms)
    assert "Best layer norm, L2 0.0001, worst no norm, L2 0." in concluded.verdict
    assert concluded.numbers["remedies"]["no norm, L2 0"]["last task"]["mean"] == 0.1


def test_fractions():
    assert {arm.stream.fraction for arm in FRACTION.arms.values()} == {0.1, 0.3, 1.0}
    arms = {
        "10% drawn anew, none": cells(0.9, 0.85),
        "100% drawn anew, none": cells(0.9, 0.2),
        "100% drawn anew, both": cells(0.9, 0.9),
    }
    concluded = conclude_fractions(arms)
    assert "Without a remedy the harm grows with the fraction" in concluded.verdict
    arms["100% drawn anew, none"] = cells(0.9, 0.95)
    assert "does not grow steadily" in conclude_fractions(arms).verdict
