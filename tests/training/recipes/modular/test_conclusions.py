# SPDX-License-Identifier: Apache-2.0
"""Verdicts by place: who leads, and the paper's numbers beside."""

from training.recipes.modular.conclusions import PAPER_OUT, conclude


def cells(out: float, **others: float) -> list[dict]:
    return [
        {
            "tests": {
                "in": {"accuracy": 0.9, "loss": 0.1},
                "out": {"accuracy": out + change, "loss": 0.3},
                "decoding": 0.5,
                **{name: {"accuracy": value, "loss": 1.0} for name, value in others.items()},
            },
            "loss": [1.0, 0.5],
            "choices": {"steps": 20, "measured": 2},
        }
        for change in (-0.004, 0.004)
    ]


def test_the_order_by_place():
    arms = {
        "M 4, K 2/linear": cells(0.8),
        "M 4, K 2/ANIL": cells(0.6),
        "M 4, K 1/linear": cells(0.2),
        "M 4, K 1/ANIL": cells(0.5),
        "M 8, K 2/linear": cells(0.52),
        "M 8, K 2/ANIL": cells(0.52),
    }
    findings = conclude(arms, beside=PAPER_OUT)
    for words in (
        "M 4, K 2: linear 0.90 -> 0.80, ANIL 0.90 -> 0.60 (a hypernetwork leads)",
        "M 4, K 1: linear 0.90 -> 0.20, ANIL 0.90 -> 0.50 (ANIL or MAML leads)",
        "(no clear leader)",
        "[paper: linear 0.76, ANIL 0.61]",
    ):
        assert words in findings.verdict, words
    assert set(findings.plots) == {"held_out", "loss"}
    assert len(findings.tables) == 1


def test_other_tests_have_a_table():
    arms = {"M 8, K 2/linear": cells(0.8, **{"K 4": 0.7, "8 shots": 0.4})}
    findings = conclude(arms)
    assert findings.tables[1].columns == ("place/learner", "K 4", "8 shots")
    assert findings.numbers["few_shot"]["M 8, K 2/linear"]["K 4"]["mean"] == 0.7
    assert "leads" not in findings.verdict
