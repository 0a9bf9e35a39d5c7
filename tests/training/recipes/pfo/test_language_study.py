# SPDX-License-Identifier: Apache-2.0
"""A small study runs, and what its arms are."""

import pytest

from training.recipes.experiment import Cell
from training.recipes.pfo.language_study import LANGUAGE, NAMES, LanguageArm, conclude, measure

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_every_arm():
    arms = LANGUAGE.arms
    assert len(arms) == 8
    assert (arms["8/PFO"].pfo, arms["8/PFO"].kl, arms["8/PFO"].epochs) == (1.0, 0.0, 8)
    assert arms["2/KL"].kl == 0.04
    assert arms["8/GRPO"].method == "grpo"


def test_a_study(tmp_path):
    small = LanguageArm(
        width=32,
        layers=2,
        examples=40,
        base_steps=4,
        prompts=20,
        held_out=5,
        iterations=2,
        rollout=8,
        batch_size=4,
        epochs=1,
        warmup=1,
        method="grpo",
    )
    ((_, numbers),) = measure([Cell("GRPO", small, 0)], tmp_path / "unfinished")
    assert not (tmp_path / "unfinished").exists()
    assert set(numbers["measured"]) == set(NAMES)
    assert all(len(curve) == 2 for curve in numbers["measured"].values())
    assert 0 <= numbers["after"] <= 1
    concluded = conclude({"GRPO": [numbers], "PPO": [numbers, numbers]})
    assert "GRPO: accuracy 0.000 to " in concluded.verdict
    assert concluded.tables[0].columns[:3] == ("arm", "before", "after")
