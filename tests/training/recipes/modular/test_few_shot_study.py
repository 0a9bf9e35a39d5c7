# SPDX-License-Identifier: Apache-2.0
"""The experiments' arms, the presets, and small runs of every family from arms to verdict."""

import dataclasses

import pytest

from recurrentgemma.errors import UserError
from training.recipes.experiment import run_experiment
from training.recipes.modular.experiments import EXPERIMENTS, PRESETS
from training.recipes.modular.few_shot_study import (
    EIGHT,
    FOUR,
    GOALS,
    PREFERENCES,
    SUPPORTS,
    TRANSFER,
    few_shot_arms,
    small_goals,
    small_hyperteacher,
    small_preferences,
)
from training.recipes.modular.hypernetworks import Anil, Hypernetwork
from training.recipes.modular.method import Inner
from training.recipes.modular.settings import Setting
from training.recipes.modular.support import Support


def test_names_and_seeds():
    names = [one.name for one in (*EXPERIMENTS, *PRESETS)]
    assert len(set(names)) == len(names)
    assert all(one.seeds >= 5 for one in EXPERIMENTS)


def test_arms():
    assert set(FOUR.arms) == {
        f"M 4, K {hot}/{name}"
        for hot in (1, 2, 4)
        for name in ("linear", "non-linear", "ANIL", "MAML")
    }
    arm = EIGHT.arms["M 8, K 4/linear"]
    assert (arm.family.support.modules, arm.family.support.hot) == (8, 4)
    assert arm.learner.templates == 32
    assert TRANSFER.arms["M 8, K 2/ANIL"].test_shots == (8, 16, 32, 128)
    assert len(PREFERENCES.arms) == 16
    assert len(GOALS.arms) == 12


@pytest.mark.parametrize(
    "experiment", [FOUR, EIGHT, SUPPORTS, TRANSFER, PREFERENCES, GOALS], ids=lambda one: one.name
)
def test_every_arm_has_a_split(experiment):
    for place in {arm.split("/")[0] for arm in experiment.arms}:
        family = experiment.arms[f"{place}/linear"].family
        if experiment is not GOALS:
            for seed in range(experiment.seeds):
                family.support.split(seed)


SMALL = {
    "hypernetwork": Setting(
        learner=Hypernetwork(width=2, depth=1, templates=2), inner=Inner(steps=1), outer_rate=0.01
    ),
    "ANIL": Setting(learner=Anil(width=2, depth=1), inner=Inner(steps=1), outer_rate=0.01),
}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            dataclasses.replace(
                small_goals("disconnected"), size=5, mazes=2, near=2, longest=9, objects=2
            ),
            id="goals",
        ),
        pytest.param(
            small_hyperteacher(
                Support(kind="random", modules=3, hot=2, layers=2), width=2, shots=4, queries=4
            ),
            marks=pytest.mark.slow,
            id="hyperteacher",
        ),
        pytest.param(
            dataclasses.replace(
                small_preferences(Support(kind="random", modules=3, hot=2)),
                objects=1,
                shots=1,
                queries=1,
            ),
            marks=pytest.mark.slow,
            id="preferences",
        ),
    ],
)
def test_a_small_run(family, tmp_path):
    arms = few_shot_arms(
        {"here": (family, SMALL)}, learners=["ANIL"], steps=2, tasks=8, measured=2, tested=4
    )
    small = dataclasses.replace(GOALS, arms=arms)
    result = run_experiment("modular", small, tmp_path, seeds=1)["result"]
    assert result["verdict"].startswith("accuracy in -> out of distribution. here: ANIL ")
    assert 0 <= result["few_shot"]["here/ANIL"]["held out"]["mean"] <= 1
    assert (tmp_path / "held_out.svg").is_file()


def test_a_preset():
    preset = next(one for one in PRESETS if one.name == "paper-goals")
    options = dataclasses.replace(
        preset.options, environments=("random",), interventions=("ANIL",), steps=30
    )
    ((name, arm),) = preset.experiment(options).arms.items()
    assert name == "random/ANIL"
    assert (arm.steps, arm.tasks, arm.family.size, arm.learner.width) == (30, 128, 11, 512)
    assert arm.steps % arm.measured == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"environments": ("rando",)}, "'rando' is unknown.*did you mean 'random'"),
        ({"interventions": ("anil",)}, "'anil' is unknown.*expected one of linear"),
        ({"epochs": (3,)}, "--epochs has no effect"),
    ],
)
def test_bad_options(options, message):
    preset = next(one for one in PRESETS if one.name == "paper-goals")
    with pytest.raises(UserError, match=message):
        preset.experiment(dataclasses.replace(preset.options, **options))
