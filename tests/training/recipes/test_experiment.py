# SPDX-License-Identifier: Apache-2.0
"""Experiments: cells are computed once, whoever stops them, and become one result."""

import dataclasses
import json

import numpy as np
import pytest

from eval.report import page
from eval.results import Table
from recurrentgemma.errors import UserError
from training.recipes.experiment import Experiment, Findings, as_json, run_experiment


@dataclasses.dataclass(frozen=True)
class Choices:
    factor: float = 1.0


def experiment(arms: dict[str, Choices], computed: list, stop_after: int = 100) -> Experiment:
    def measure(cells):
        for cell in cells:
            if len(computed) == stop_after:
                raise KeyboardInterrupt
            computed.append((cell.arm, cell.seed))
            yield cell, {"loss": cell.choices.factor * cell.seed}

    def conclude(arms):
        means = {arm: float(np.mean([one["loss"] for one in cells])) for arm, cells in arms.items()}
        rows = [[arm, mean] for arm, mean in means.items()]
        return Findings("the means", {"means": means}, [Table("t", ("arm", "loss"), rows)])

    return Experiment(
        name="e", question="?", cost="nothing", arms=arms, measure=measure, conclude=conclude
    )


def test_a_study_goes_on_where_it_stopped(tmp_path):
    arms, computed = {"one": Choices(), "a / b": Choices(2.0)}, []
    folder = tmp_path / "r" / "e"
    with pytest.raises(KeyboardInterrupt):
        run_experiment("r", experiment(arms, computed, stop_after=3), folder, seeds=2)
    assert computed == [("one", 0), ("one", 1), ("a / b", 0)]
    record = run_experiment("r", experiment(arms, computed), folder, seeds=2)
    assert computed[3:] == [("a / b", 1)]
    assert record["result"]["means"] == {"one": 0.5, "a / b": 1.0}
    assert record["result"]["arms"]["a / b"] == {"factor": 2.0}
    assert json.loads((folder / "result.json").read_text())["result"] == record["result"]
    assert "a / b" in page([folder], title="t")

    more = run_experiment("r", experiment(arms, computed), folder, seeds=3)
    assert computed[4:] == [("one", 2), ("a / b", 2)]
    assert more["result"]["means"] == {"one": 1.0, "a / b": 2.0}
    run_experiment("r", experiment(arms | {"one": Choices(3.0)}, computed), folder, seeds=1)
    assert computed[6:] == [("one", 0)]  # a changed arm is computed anew, the other is not


def test_no_seeds_and_anothers_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="--seeds 0: expected at least 1"):
        run_experiment("r", experiment({}, []), tmp_path, seeds=0)
    run_experiment("r", experiment({"one": Choices()}, []), tmp_path, seeds=1)
    with pytest.raises(UserError, match=r"recipe 'r' \(here 'other'\)"):
        run_experiment("other", experiment({"one": Choices()}, []), tmp_path, seeds=1)


def test_arrays_become_json():
    numbers = {"a": np.arange(2), "b": [np.float32(0.5), {"c": (1, "x")}]}
    assert as_json(numbers) == {"a": [0, 1], "b": [0.5, {"c": [1, "x"]}]}
