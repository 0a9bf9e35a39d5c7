# SPDX-License-Identifier: Apache-2.0
"""Verdicts say what the numbers say, whichever way it is."""

import pytest

from training.recipes.pruning import findings


def cells(*accuracies: float, left: float, **more: float) -> list[dict]:
    return [
        {
            "accuracy": accuracy,
            "parameters_left": left,
            "units_left": left,
            "seconds": 2.0,
            "cpu_seconds": 3.0,
            "compile_seconds": 1.0,
            "steps": [1, 2],
            "live": [4, 3],
            **more,
        }
        for accuracy in accuracies
    ]


NUMBERS = {
    "dense": cells(0.9, 0.902, 0.901, left=1.0),
    "DemP 0.01": cells(0.89, 0.892, 0.891, left=0.6),
    "DemP 0.1": cells(0.5, 0.5, 0.5, left=0.1),
    "constant 0.01": cells(0.8, 0.8, 0.8, left=0.5),
    "random 0.5": cells(0.8, 0.802, 0.801, left=0.4),
    "small 0.5": cells(0.92, 0.922, 0.921, left=0.4),
}


def test_accuracy_is_compared_at_the_same_size(tmp_path):
    outcome = findings.conclude_accuracy(NUMBERS)
    gain = outcome.numbers["gain_over"]["DemP 0.01"]
    at_06 = 0.801 + (0.901 - 0.801) / 3
    assert gain["random"][0] == pytest.approx(0.891 - at_06)
    assert gain["small"][0] < 0
    assert outcome.numbers["gain_over"]["DemP 0.1"] == {"random": None, "small": None}
    assert "better at the same size: DemP 0.01 against random (+5.67 points)" in outcome.verdict
    assert "worse: DemP 0.01 against small (-2.33 points)" in outcome.verdict
    for name, draw in outcome.plots.items():
        draw(tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000


def test_speed_and_revivals():
    slower = {**NUMBERS, "DemP": cells(0.9, left=0.5, cpu_seconds=6.0)}
    assert findings.conclude_speed(slower).numbers["speedup"]["DemP"] == pytest.approx(0.5)
    fates = {
        "AdamW": cells(0.9, 0.9, left=1.0, died=10, revived=4, died_again=3),
        "SGD": cells(0.9, 0.9, left=1.0, died=0, revived=0, died_again=0),
    }
    verdict = findings.conclude_revivals(fates).verdict
    assert verdict == (
        "AdamW: of 10 units that died 40% revived, and 75% of those died again; "
        "SGD: of 0 units that died 0% revived"
    )


def test_a_pruned_griffin_is_held_against_the_small_one():
    def of(bits: float) -> list[dict]:
        names = ("bits_before", "bits_pruned", "zero_units", "tokens_per_second", "parameters")
        return [
            {"bits_after": bits + noise, "mlp_width": 32, **dict.fromkeys(names, 1.0)}
            for noise in (0.0, 0.01)
        ]

    outcome = findings.conclude_language({"dense": of(2.0), "small": of(2.3), "random": of(2.2)})
    assert outcome.numbers["gain_over_small"]["random"][0] == pytest.approx(0.1)
    assert "random +0.1000" in outcome.verdict
