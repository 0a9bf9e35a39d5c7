# SPDX-License-Identifier: Apache-2.0
"""Ends of curves, and the arithmetic of a price."""

import pytest

from training.recipes.forgetting.short_runs import conclude_short, ends, price, watched

RECORDS = [
    {"return": None, "held_loss": 2.0, "steps_per_second": 50.0, "environment_share": 0.5},
    {"return": 1.0, "held_loss": 1.0, "steps_per_second": 150.0, "environment_share": 0.5},
]


def test_curves_and_their_ends(capsys):
    curves = watched(RECORDS, "an arm", ("return", "held_loss"))
    assert curves["return"] == [None, 1.0]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  an arm: 1  held_loss 2  50 steps/s"
    cell = {"curves": curves}
    first, last = ends([cell], "return")
    assert (first.mean, last.mean) == (1.0, 1.0)  # the first that is there
    assert [one.mean for one in ends([cell], "held_loss")] == [2.0, 1.0]
    assert ends([cell], "nowhere")[0].mean != ends([cell], "nowhere")[0].mean


def test_a_price():
    of = price(36_000_000, steps_per_second=100.0, environment_share=0.16)
    assert of == pytest.approx({"steps": 36e6, "core_hours": 100.0, "gpu_hours": 1.0})


def test_findings():
    cell = {"curves": watched(RECORDS, "an arm", ())}
    findings = conclude_short({"a": [cell]}, ("return", "held_loss"), steps=36_000_000, frames=4)
    assert findings.numbers["price"]["a"]["frames_per_second"] == 400
    assert "36,000,000 steps would take up to 100 hours" in findings.verdict
    assert findings.tables[0].rows == [["a", "1 to 1", "2 to 1"]]
