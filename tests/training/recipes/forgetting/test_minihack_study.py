# SPDX-License-Identifier: Apache-2.0
"""The verdict is that of the numbers, whatever they are; and a small study in MiniHack, where it is
installed, from arms to plots."""

import dataclasses

import numpy as np
import pytest

from training.recipes.experiment import run_experiment
from training.recipes.forgetting.minihack import Task
from training.recipes.forgetting.minihack_rooms import Rooms
from training.recipes.forgetting.minihack_run import CURVES
from training.recipes.forgetting.minihack_study import (
    MINIHACK,
    best_of,
    conclude,
    gain,
    minihack_arms,
    numbers_of,
    wins,
)
from training.recipes.rl.ppo import PPOArm, PPOChoices
from training.recipes.vision.mlp import MLPConfig

NETWORK = MLPConfig(widths=(8,))


def cells_of(arms, success):
    """Three seeds of each arm whose success rises to a level, its seeds a little different."""
    numbers = {}
    for arm, choices in arms.items():
        numbers[arm] = [
            {
                **{name: [0.5] * 4 for name in CURVES},
                "success": [success.get(arm, 0.3) + 0.01 * seed + step for step in (0.0, 0.1)] * 2,
                "conflicts": 4,
                "before": {"success": 0.1, "from_far": 0.9, "far_likelihood": -0.1},
                "choices": dataclasses.asdict(choices),
            }
            for seed in range(3)
        ]
    return numbers


def test_the_arms():
    assert len(MINIHACK.arms) == 1 + 2 * (1 + 6)
    kicked = MINIHACK.arms["coverage/ks 0.5"]
    assert (kicked.gap, kicked.method, kicked.weight.start) == ("coverage", "ks", 0.5)
    assert kicked.weight.decay < 1
    assert 0 < kicked.weight.floor < kicked.weight.start
    assert MINIHACK.arms["cloning/bc 1"].weight.decay == 1
    bases = {arm.base for arm in MINIHACK.arms.values()}
    assert len(bases) == 3  # one copy a gap, and none


@pytest.mark.parametrize(
    ("success", "words"),
    [
        (
            {"cloning/ks 0.5": 0.8, "coverage/bc 1": 0.7},
            "wins with a cloning gap and does not win with a coverage gap, so the claim is seen",
        ),
        (
            {"cloning/ks 0.5": 0.8, "coverage/ks 0.1": 0.7},
            "wins with a cloning gap and wins with a coverage gap, so the claim is not seen",
        ),
        ({"cloning/bc 1": 0.8}, "does not win with a cloning gap"),
    ],
)
def test_the_verdict_is_that_of_the_numbers(success, words):
    findings = conclude(cells_of(minihack_arms(), success))
    assert words in findings.verdict
    assert findings.numbers["weights"]["cloning"]["ks"] in ("cloning/ks 0.1", "cloning/ks 0.5")
    assert len(findings.numbers["auc"]) == len(minihack_arms())
    assert all("nan" not in str(row) for table in findings.tables for row in table.rows)


def test_a_gain_is_paired_and_transfer_is_against_scratch():
    arms = cells_of(minihack_arms(), {"cloning/ks 0.5": 0.8, "scratch": 0.2})
    shown = best_of(arms, "cloning")
    paired = gain(arms, shown, "ks")
    assert (paired.mean, paired.high - paired.low) == pytest.approx((0.5, 0.0), abs=1e-9)
    assert wins(arms, shown, "ks")
    assert not wins(arms, shown, "bc")
    # AUCs of 0.26 (scratch) and 0.86
    transfer = numbers_of(arms, "cloning/ks 0.5")["transfer"]
    assert transfer.mean == pytest.approx((0.86 - 0.26) / (1 - 0.26))


def test_of_one_seed_there_is_no_interval():
    arms = {
        arm: cells[:1] for arm, cells in cells_of(minihack_arms(), {"cloning/ks 0.5": 0.8}).items()
    }
    assert np.isnan(gain(arms, best_of(arms, "cloning"), "ks").low)
    assert "KS gains 0.50 on fine-tuning and wins" in conclude(arms).verdict


def test_a_small_one_in_minihack(tmp_path):
    pytest.importorskip("minihack", reason="minihack is not installed here: griffin-lm[nethack]")
    choices = PPOChoices(
        actor=NETWORK, critic=NETWORK, environments=2, rollout=16, epochs=1, minibatch=16
    )
    arms = minihack_arms(
        {"ks": (0.5,)},
        stored=2,
        valued_steps=8,
        valued_updates=2,
        scored=2,
        task=Task(rooms=Rooms(columns=1, side=2), limit=12),
        ppo=PPOArm(choices=choices, environment="rooms", steps=64, measured=2),
    )
    small = dataclasses.replace(MINIHACK, arms=arms)
    result = run_experiment("forgetting", small, tmp_path, seeds=1)["result"]
    assert result["verdict"].startswith("KS ")
    assert result["gain"].keys() == {"cloning", "coverage"}
    assert (tmp_path / "cloning_success.svg").is_file()
    assert len(list((tmp_path / "cells").iterdir())) == len(arms)
    again = run_experiment("forgetting", small, tmp_path, seeds=1)["result"]
    assert again["auc"] == result["auc"]
