# SPDX-License-Identifier: Apache-2.0
"""From the command line to a HyperRun, and what it refuses."""

import dataclasses
from pathlib import Path

import pytest

from griffin_lm import main as griffin
from recurrentgemma.errors import UserError
from tests.training.finetuning.capitals import arguments
from training.finetuning.finetune_arguments import HyperArguments, LoraArguments
from training.finetuning.prepare_hyper import prepare_hyper, wants_hyper

EIGHT = HyperArguments(templates=8)


def given(base: Path, file: Path, folder: Path, hyper: HyperArguments = EIGHT, **changes):
    asked = arguments(base, file, folder / "run", hyper=hyper, chat_template="none", epochs=2.0)
    return dataclasses.replace(asked, learning_rate=None, **changes)


def test_a_run_of_two_tasks(base: Path, data: Path, tmp_path: Path):
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text() * 3)
    asked = given(base, data, tmp_path, data=(str(data), str(other)), batch_size=6)
    assert wants_hyper(asked)
    prepared = prepare_hyper(asked)
    config = prepared.config
    assert list(config.tasks) == ["tune", "other"]
    assert (config.rows, config.hyper.rank, config.hyper.alpha) == (3, 4, 8.0)
    assert (config.learning_rate, config.code_rate) == (2e-4, 2e-3)
    assert "8 templates of rank 4, and codes of 2 tasks (tune, other)" in prepared.summary
    assert not wants_hyper(dataclasses.replace(asked, hyper=HyperArguments()))


@pytest.mark.parametrize(
    ("hyper", "changes", "message"),
    [
        (HyperArguments(rank=2), {}, "no effect without templates: give --hyper.templates"),
        (HyperArguments(templates=2, source=Path("here")), {}, "has templates already"),
        (EIGHT, {"lora": LoraArguments(rank=2)}, "--lora has no effect with --hyper"),
        (EIGHT, {"eval_data": ("x",)}, "--eval-data has no effect with --hyper"),
        (EIGHT, {"weight_decay": 0.1}, "--weight-decay has no effect with --hyper"),
        (EIGHT, {"epochs": 0.0}, "epochs=0.0: expected a number above 0"),
        (EIGHT, {"data": ()}, "a file of conversations for each task"),
        (HyperArguments(templates=8, rank=999), {}, "hyper.rank=999 is larger"),
        (HyperArguments(source=Path("nowhere")), {}, "holds no hypernetwork adapters"),
    ],
)
def test_what_is_refused(base: Path, data: Path, tmp_path: Path, hyper, changes, message):
    asked = given(base, data, tmp_path, hyper, **changes)
    with pytest.raises(UserError, match=message):
        _ = wants_hyper(asked) and prepare_hyper(asked)


def test_two_files_of_one_name(base: Path, data: Path, tmp_path: Path):
    with pytest.raises(UserError, match="two files are called 'tune'"):
        prepare_hyper(given(base, data, tmp_path, data=(str(data), str(data))))


def test_the_commands(base: Path, data: Path, tmp_path: Path, capsys):
    shared, one = str(tmp_path / "shared"), str(tmp_path / "one")
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text())
    command = ["finetune", str(base), "--epochs", "2", "--sequence-length", "32", "--template"]
    command += ["none", "--dtype", "float32"]
    asked = [*command, "--hyper.templates", "2", "--hyper.rank", "2", "--run-dir", shared]
    asked[2:2] = [str(data), str(other)]
    assert griffin(asked) == 0, capsys.readouterr().err
    assert f"OUT --code tune; griffin finetune {base} DATA --hyper.source" in (
        capsys.readouterr().out
    )
    asked = [*command, "--hyper.source", shared, "--run-dir", one]
    asked[2:2] = [str(data)]
    assert griffin(asked) == 0, capsys.readouterr().err
    assert f"{one} is a checkpoint like any other" in capsys.readouterr().out
    assert griffin(["generate", one, "Capital", "--max-tokens", "2"]) == 0
