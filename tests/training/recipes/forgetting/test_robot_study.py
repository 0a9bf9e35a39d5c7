# SPDX-License-Identifier: Apache-2.0
"""The arms, and what is concluded from curves that are known."""

import dataclasses

import pytest

from training.recipes.forgetting.robot_study import METHODS, PAPER, ROBOTS, conclude, robot_arms
from training.recipes.forgetting.robots import STAGES

ARMS = robot_arms(STAGES, most_new=2, steps=300, measured=3)


def curves(arm, seed: int) -> dict:
    """From scratch a known stage rises to 0.4; a teacher has 1, and all but BC and EM lose 0.7."""
    low = {"scratch": 0.0, "fine-tuning": 0.3, "EWC": 0.3, "BC": 1.0, "EM": 0.9}[arm.method]
    first, last = (0.0, 0.4) if arm.method == "scratch" else (1.0, low)
    by_step = [first, low, low + 0.01 * seed, last]
    new, known = [0.0, 0.2, 0.4, 0.6], [by_step] * 2
    success = [list(step) for step in zip(*[new] * arm.new, *known, strict=True)]
    return {
        "success": success,
        "solved": [None, 0.2, 0.4, 0.5 + 0.1 * seed],
        "kl": [0.0, 1.0, 2.0, 3.0],
        "held": [0.0] * 4,
        "steps_per_second": [0.0, 70.0, 70.0, 72.0],
        "choices": dataclasses.asdict(arm),
    }


def test_the_arms():
    assert len(ROBOTS.arms) == len(ARMS) == 2 * len(METHODS)
    one, two = ARMS["1 new/BC"], ARMS["2 new/EWC"]
    assert (one.stages, one.new, one.method, one.weight) == (STAGES[1:], 1, "BC", 1)
    assert (two.stages, two.new, two.method, two.weight) == (STAGES, 2, "EWC", 100)
    full = ROBOTS.arms["2 new/EM"]
    assert (full.steps, full.widths, full.batch) == (100_000, (128,) * 4, 128)
    assert (full.buffer, full.protected, full.learning_rate) == (100_000, 10_000, 1e-3)
    assert full.choices().buffer - full.protected == 90_000


def test_the_findings(tmp_path):
    findings = conclude(
        {name: [curves(arm, seed) for seed in (0, 1)] for name, arm in ARMS.items()}
    )
    far = findings.numbers["by_place"]["1 new"]["fine-tuning"]["far"]["push-wall-v3"]
    assert far["least"]["mean"] == pytest.approx(0.3)
    transfers, least, one_new, two_new = findings.tables
    assert len(transfers.rows) == 2 * 2 * 4
    row = next(row for row in transfers.rows if row[:3] == ["2 new", "push-wall-v3", "BC"])
    assert row[-1] == PAPER["push-wall-v3"][2]["BC"] == 0.97
    assert next(row for row in transfers.rows if row[2] == "EM")[-1] is None
    assert len(least.rows) == len(ARMS)
    assert one_new.columns[-1] == two_new.columns[-1] == "push-wall-v3"
    assert "1 new: of the known stages' success, 1.00 before, fine-tuning loses 0.700" in (
        findings.verdict
    )
    assert "(it forgets)" in findings.verdict
    assert "their mean over the run: BC 1.00, EM 0.93" in findings.verdict
    assert set(findings.plots) == {
        *(f"{stage}-{new}-new" for stage in STAGES[2:] for new in (1, 2)),
        *(f"{name}-{new}-new" for name in ("kl", "solved") for new in (1, 2)),
    }
    for name in ("push-wall-v3-2-new", "solved-1-new"):
        findings.plots[name](tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000


def test_forward_transfer_is_that_of_table_6():
    arms = {name: [curves(arm, 0)] * 2 for name, arm in ARMS.items()}
    numbers = conclude(arms).numbers["by_place"]["2 new"]
    scratch = (0 / 2 + 0 + 0 + 0.4 / 2) / 3
    tuned = (1 / 2 + 0.3 + 0.3 + 0.3 / 2) / 3
    transfer = numbers["fine-tuning"]["far"]["peg-unplug-side-v3"]["forward_transfer"]
    assert transfer["mean"] == pytest.approx((tuned - scratch) / (1 - scratch))
    assert "forward_transfer" not in numbers["scratch"]["far"]["peg-unplug-side-v3"]
    assert numbers["BC"]["far"]["push-wall-v3"]["forward_transfer"]["mean"] == pytest.approx(1)


def test_one_seed_has_no_intervals():
    verdict = conclude({name: [curves(arm, 0)] for name, arm in ARMS.items()}).verdict
    assert "fine-tuning loses 0.7 at its worst (it forgets)" in verdict
