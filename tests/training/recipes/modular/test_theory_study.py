# SPDX-License-Identifier: Apache-2.0
"""From arms to verdict; what a preset refuses."""

import dataclasses

import pytest

from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell, PresetOptions, run_experiment
from training.recipes.modular.theory_study import (
    PAPER_THEORY,
    SIZES,
    THEORY,
    conclude,
    conclude_sizes,
    measure,
    theory_arms,
)

TINY = {"inputs": 3, "hidden": 2, "outputs": 1, "steps": 2, "points": 4, "shots": 8, "fit": 1,
        "starts": 1, "known": 1}  # fmt: skip


def numbers(error: float, components: int, alignment: float | None = 0.9) -> dict:
    errors = {"train": 1e-5, "out": error, "triples": error}
    modular = {} if alignment is None else {
        "alignment": alignment, "least_alignment": alignment, "decoding": errors,
    }  # fmt: skip
    return {"error": errors, "components": components, **modular}


def test_the_verdict():
    arms = {
        "connected": [numbers(1e-4, 1, 1.0)] * 2,
        "disconnected": [numbers(0.07, 2)] * 2,
        "bridged": [numbers(0.05, 1)] * 2,
        "non-compositional": [numbers(0.4, 1)] * 2,
        "non-compositional, read-out": [numbers(0.2, 1, None)] * 2,
    }
    findings = conclude(arms)
    for words in (
        "connected: held-out 0.0001, alignment 1.00 (generalises, as claimed)",
        "disconnected: held-out 0.0700, alignment 0.90 (does not generalise, as claimed)",
        "bridged: held-out 0.0500, alignment 0.90 (should, does not)",
        "non-compositional: held-out 0.4000, alignment 0.90 (does not generalise, as claimed)",
        "The better learner on held-out pairs: non-compositional read-out.",
    ):
        assert words in findings.verdict
    assert len(findings.tables[1].rows) == 4
    unfitted = numbers(0.5, 1) | {"error": dict.fromkeys(("train", "out", "triples"), 0.5)}
    assert "training tasks are not fitted" in conclude({"connected": [unfitted]}).verdict


def test_arms_of_equal_shapes_run_as_one(tmp_path):
    arms = theory_arms(**TINY)
    two = {name: arms[name] for name in ("connected", "disconnected")}
    small = dataclasses.replace(THEORY, arms=two)
    result = run_experiment("modular", small, tmp_path, seeds=2)["result"]
    assert "training tasks are not fitted" in result["verdict"]
    assert set(result["connected"]) >= {"training pairs", "held-out pairs", "alignment"}
    assert (tmp_path / "out.svg").is_file()


@pytest.mark.slow
def test_a_cell_does_not_depend_on_its_company():
    arm = theory_arms(**TINY)["connected"]
    alone = dict(measure([Cell("a", arm, 1)]))
    both = dict(measure([Cell("a", arm, 0), Cell("a", arm, 1)]))
    cell = Cell("a", arm, 1)
    assert alone[cell]["loss"] == pytest.approx(both[cell]["loss"], rel=1e-4)


def test_sizes():
    assert SIZES.arms["units x2, modules x4, continuous"].draws == 4
    assert "alignment 0.90" in conclude_sizes({"units x1, modules x1": [numbers(0.1, 1)]}).verdict


def test_the_authors_settings():
    arm = PAPER_THEORY.experiment(PAPER_THEORY.options).arms["connected, 2x2"]
    assert (arm.steps, arm.inner.steps, arm.codes, arm.more, arm.tasks) == (
        *(60_000, 300),
        *("inferred", 2, 64),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"environments": ("ring",)}, "'ring' with '2x2': expected a support"),
        ({"interventions": ("2",)}, "with '2': expected a support"),
        ({"epochs": (2,)}, "--epochs has no effect"),
    ],
)
def test_bad_input(options, message):
    asked: PresetOptions = dataclasses.replace(PAPER_THEORY.options, **options)
    with pytest.raises(UserError, match=message):
        PAPER_THEORY.experiment(asked)
