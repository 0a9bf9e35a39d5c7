# SPDX-License-Identifier: Apache-2.0
"""The experiments' arms are what their names say; a small one runs to its result."""

import dataclasses

from training.recipes.experiment import Experiment, run_experiment
from training.recipes.pruning import experiments, findings
from training.recipes.pruning.choices import Training
from training.recipes.vision.layers import BATCH_NORM
from training.recipes.vision.mlp import MLPConfig


def test_arms_differ_in_what_their_names_say():
    mlp = next(one for one in experiments.EXPERIMENTS if one.name == "mlp")
    start = mlp.arms["DemP 0.03"]
    differs = {
        name: {
            field.name
            for field in dataclasses.fields(Training)
            if getattr(choices, field.name) != getattr(start, field.name)
        }
        for name, choices in mlp.arms.items()
    }
    assert differs["no noise 0.03"] == {"noise"}
    assert differs["constant 0.03"] == differs["warm-up 0.03"] == {"schedule"}
    assert differs["DemP 0.1"] == {"penalty"}
    assert differs["snap 0.5"] == {"method", "penalty", "density"}
    assert len({repr(choices) for choices in mlp.arms.values()}) == len(mlp.arms)
    assert [one.name for one in experiments.EXPERIMENTS] == [
        *("mlp", "vgg", "speed", "revivals", "griffin"),
    ]


def test_a_small_study_runs_and_goes_on(patches: str, tmp_path):
    start = Training(
        network=MLPConfig(widths=(16, 8), style=BATCH_NORM),
        images=patches,
        steps=14,
        looks=7,
        batch_size=16,
    )
    chosen = {
        name: choices
        for name, choices in experiments.arms(start, (0.1,), 0.1, (0.5,)).items()
        if name in ("dense", "DemP 0.1", "small 0.5")
    }
    small = Experiment(
        name="mlp",
        question="?",
        cost="",
        arms=chosen,
        measure=experiments.measure,
        conclude=findings.conclude_accuracy,
        seeds=2,
    )
    record = run_experiment("pruning", small, tmp_path / "mlp")
    assert record["result"]["seeds"] == 2
    assert set(record["result"]["by_arm"]) == set(chosen)
    assert len(list((tmp_path / "mlp/cells").glob("*.json"))) == 6
    assert (tmp_path / "mlp/accuracy.svg").is_file()
