# SPDX-License-Identifier: Apache-2.0
"""A small study of AppleRetrieval, from arms to verdict."""

import dataclasses

from training.recipes.experiment import run_experiment
from training.recipes.forgetting.apple_study import (
    APPLES_FIRST,
    APPLES_STUDY,
    apple_arms,
    first_arms,
)
from training.recipes.forgetting.apples import CLOSE, FAR

SMALLER = {"teaching": 4, "updates": 4, "episodes": 4, "measured": 2, "longest": 8}


def test_every_arm():
    assert len(APPLES_STUDY.arms) == 4 * 3 * (2 + 4 * 4)
    walk = APPLES_STUDY.arms["c 0.1, M 30/bc 100"]
    assert (walk.c, walk.apple, walk.bc, walk.ks, walk.taught) == (0.1, 30.0, 100.0, 0.0, True)


def test_needed_first_and_last(tmp_path):
    assert len(APPLES_FIRST.arms) == 2 * 2 * (1 + 4 * 4)
    arms = first_arms(shifts=(0.5,), apple=2, **SMALLER)
    assert {walk.known for walk in arms.values()} == {CLOSE, FAR}
    small = dataclasses.replace(APPLES_FIRST, arms=arms)
    result = run_experiment("forgetting", small, tmp_path, seeds=2)["result"]
    assert "needed first, c 0.5: 0.5" in result["verdict"]
    assert result["gap"].keys() == {"needed first, c 0.5", "needed last, c 0.5"}
    assert (tmp_path / "gap.svg").is_file()


def test_a_small_one(tmp_path):
    arms = apple_arms(shifts=(0.5, 1.0), apples=(1, 2), weights=(1.0, 10.0), **SMALLER)
    small = dataclasses.replace(APPLES_STUDY, arms=arms)
    result = run_experiment("forgetting", small, tmp_path, seeds=2)
    assert "of P(correct in FAR) fine-tuning loses" in result["result"]["verdict"]
    assert result["result"]["weights"]["c 0.5, M 2"]["bc"] in ("bc 1", "bc 10")
    assert len(result["result"]["auc"]) == len(arms)
    assert (tmp_path / "success.svg").is_file()
