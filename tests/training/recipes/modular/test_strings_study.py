# SPDX-License-Identifier: Apache-2.0
"""From numbers to verdict, and the order of the cells."""

import pytest

from training.recipes.experiment import Cell
from training.recipes.modular import strings_study
from training.recipes.modular.strings import KINDS
from training.recipes.modular.strings_learning import METHODS, StringsArm
from training.recipes.modular.strings_study import STRINGS, compared, conclude, measure


def numbers(code: float, lora: float, seed: int) -> dict:
    exact = dict.fromkeys(METHODS, 0.1) | {"code": code + 0.01 * seed, "LoRA": lora}
    held_out = {name: {"exact": value, "bits": 1 - value} for name, value in exact.items()}
    known = {"exact": 1.0, "bits": 0.0}
    return {"held_out": held_out, "training": {"own code": known, "code": known}}


ARMS = {
    "spread": [numbers(0.8, 0.5, seed) for seed in range(3)],
    "ring": [numbers(0.2 + 0.2 * (seed == 1), 0.3, seed) for seed in range(3)],
    "disconnected": [numbers(0.1, 0.5, seed) for seed in range(3)],
}


def test_the_verdict():
    findings = conclude(ARMS)
    for words in (
        "spread: none 0.10, code 0.81, code online 0.10, LoRA 0.50, all online 0.10",
        "spread, code - disconnected, code = +0.70 [+0.70, +0.70] (better)",
        "ring, code - disconnected, code = +0.17 [-0.12, +0.45] (not told apart)",
        "ring, LoRA - disconnected, LoRA = -0.20 [-0.20, -0.20] (worse)",
        "spread, code - spread, LoRA = +0.31",
        "disconnected, code - disconnected, LoRA = -0.39",
        "disconnected, code online - disconnected, all online = +0.00",
    ):
        assert words in findings.verdict
    assert set(findings.plots) == {"exact", "bits"}
    assert findings.numbers["exact"]["spread"]["LoRA"]["mean"] == pytest.approx(0.5)
    assert len(compared({"spread": ARMS["spread"]})) == 3  # nothing to compare supports with


def test_cells_come_seed_by_seed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(strings_study, "measured", lambda choices, seed: {"seed": seed})
    cells = [Cell(kind, StringsArm(kind=kind), seed) for kind in KINDS for seed in (0, 1)]
    measured = list(measure(cells))
    assert [cell.seed for cell, _ in measured] == [0, 0, 0, 1, 1, 1]
    assert [one["connected"] for _, one in measured[:3]] == [True, True, False]
    assert set(STRINGS.arms) == set(KINDS)
    assert STRINGS.seeds >= 5
