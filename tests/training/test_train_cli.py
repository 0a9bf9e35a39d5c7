# SPDX-License-Identifier: Apache-2.0
"""`griffin train`: a preset, what overrides it, and what is refused."""

import dataclasses

import pytest

import griffin_lm
from recurrentgemma.presets import PRESETS
from recurrentgemma.sharding import MeshConfig
from training import train_cli
from training.configs import RUNS
from training.launch import Launch


def test_the_command_line_overrides_the_preset(monkeypatch):
    calls = []
    monkeypatch.setattr(train_cli, "train", lambda *given: calls.append(given))
    argv = "--preset tiny --model.num-layers 3 --steps 7 --optimizer.warmup-steps 2 --text a b"
    argv += " --mesh.tensor 2"
    assert griffin_lm.run(["train", *argv.split()]) == 0
    config, run_dir, launch = calls[0]
    assert launch == Launch(mesh=MeshConfig(tensor=2))
    assert config.model == dataclasses.replace(PRESETS["tiny"](), num_layers=3, remat="auto")
    assert (config.steps, config.optimizer.warmup_steps, config.text) == (7, 2, ("a", "b"))
    assert str(run_dir) == "runs/tiny"
    griffin_lm.run(["train", "--preset=demo", "--run-dir", "elsewhere"])
    assert calls[1][0] == RUNS["demo"]()
    assert str(calls[1][1]) == "elsewhere"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--preset nothing", "unknown preset 'nothing'"),
        ("--steps 0", "steps=0: expected a whole number"),
        ("--text", "--text names no file"),
        ("--text absent.txt", "absent.txt: no such text file"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert griffin_lm.main(["train", *argv.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("argv", ["--stpes 3", "--steps many", "--model.width 1.5"])
def test_unknown_and_ill_typed_options_are_refused_by_name(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        griffin_lm.run(["train", *argv.split()])
    assert stop.value.code == 2
    assert "--steps" in (error := capsys.readouterr().err) or "--model.width" in error
