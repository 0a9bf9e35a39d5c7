# SPDX-License-Identifier: Apache-2.0
"""`griffin recipe`: what it lists, runs and refuses, with a recipe of the test's own."""

import json
import sys
import types

import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.test_experiment import Choices, experiment
from training.recipes import recipe_cli
from training.recipes.experiment import Preset, PresetOptions
from training.recipes.recipe_cli import main


@pytest.fixture
def computed(monkeypatch) -> list:
    """The cells that a recipe called `sums` has computed."""
    cells: list = []
    package = types.ModuleType("training.recipes.sums", "Sums, and nothing else.\n\nMore.")
    module = types.ModuleType("training.recipes.sums.experiments")
    module.EXPERIMENTS = (experiment({"one": Choices()}, cells),)  # type: ignore[attr-defined]
    options = PresetOptions(environments=("A", "B"), epochs=(1,), interventions=("x",), steps=9)
    module.PRESETS = (  # type: ignore[attr-defined]
        Preset(
            name="paper",
            what="the paper's.",
            options=options,
            experiment=lambda options: experiment(
                {name: Choices() for name in options.environments}, cells
            ),
        ),
    )
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(recipe_cli, "recipes", lambda: ["sums"])
    return cells


def test_lists(computed, capsys):
    main(["--list"])
    assert capsys.readouterr().out == "sums  Sums, and nothing else.\n"
    main(["sums", "--list", "--json"])
    told = {"e": "? (nothing, 5 seeds)", "--preset paper": "the paper's."}
    assert json.loads(capsys.readouterr().out) == told
    assert computed == []


def test_runs_one_and_all(computed, tmp_path, capsys):
    main(["sums", "e", "--seeds", "2", "--out", str(tmp_path), "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "e: the means"
    assert json.loads(lines[-1])["means"] == {"one": 0.5}
    assert (tmp_path / "sums" / "e" / "result.json").is_file()
    main(["sums", "--study", "--out", str(tmp_path)])
    assert computed == [("one", seed) for seed in range(5)]


def test_runs_of_a_preset(computed, tmp_path):
    shared = ["sums", "--preset", "paper", "--out", str(tmp_path), "--seeds", "1"]
    main([*shared, "--environments", "B"])
    assert computed == [("B", 0)]
    main(shared)
    assert computed == [("B", 0), ("A", 0)], "what is finished is not computed again"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no recipe is named: `griffin recipe --list`"),
        (["sum", "--list"], r"'sum' is no recipe .did you mean 'sums'.*they are sums"),
        (["sums"], "expected one of --list, --study, --preset and the name of an experiment"),
        (["sums", "--preset", "papre"], "no preset of sums.*did you mean 'paper'.*they are paper"),
        (["sums", "e", "--epochs", "3"], "--epochs choose runs of a preset: give --preset"),
        (["sums", "--preset", "paper", "--steps", "0"], "--steps 0.*expected at least 1"),
        (["sums", "e", "--study"], "expected one of"),
        (["sums", "f"], "'f' is no experiment of sums.*they are e"),
        (["sums", "--list", "--seeds", "2"], "--seeds has no effect with --list"),
        (["sums", "--study", "--json"], "--json prints one result"),
    ],
)
def test_refuses(computed, argv, message):
    with pytest.raises(UserError, match=message):
        main(argv)


def test_recipes_are_the_folders_that_have_experiments():
    assert all(
        isinstance(recipe_cli._summary(name), str) and recipe_cli._summary(name).endswith(".")
        for name in recipe_cli.recipes()
    )
    assert "vision" not in recipe_cli.recipes()
