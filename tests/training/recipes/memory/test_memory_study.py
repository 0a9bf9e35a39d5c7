# SPDX-License-Identifier: Apache-2.0
"""A small study runs, goes on where it was stopped, and says what it has seen."""

import dataclasses

from training.recipes.experiment import Cell
from training.recipes.memory.memory_study import CORES, MEMORY, conclude, measure, memory_arms


def test_every_arm():
    assert len(MEMORY.arms) == 2 * 3 * len(CORES)
    arm = MEMORY.arms["tmaze/128/hawk"]
    assert arm.choices.rollout >= 128 + 2
    assert arm.choices.core.kind == "hawk"


def test_a_small_one(tmp_path):
    arms = memory_arms(tasks=["tmaze"], lengths=[1], steps=1024, environments=8)
    arm = dataclasses.replace(arms["tmaze/1/gru"], measured=2)
    numbers = [one for _, one in measure([Cell("gru", arm, seed) for seed in (0, 1)], tmp_path)]
    assert not list(tmp_path.iterdir())
    assert numbers[0]["success"] != numbers[1]["success"]
    assert len(numbers[0]["return"]) == 2
    again = [one for _, one in measure([Cell("gru", arm, seed) for seed in (0, 1)], tmp_path)]
    assert [one["return"] for one in again] == [one["return"] for one in numbers]


def test_what_is_concluded():
    def cells(*ends):
        return [{"success": [0.5, end]} for end in ends]

    concluded = conclude({"tmaze/8/hawk": cells(1.0, 0.9), "tmaze/8/none": cells(0.5, 0.5)})
    assert "tmaze/8: hawk 0.95, none 0.50" in concluded.verdict
    assert list(concluded.plots) == ["success_tmaze_8"]
