# SPDX-License-Identifier: Apache-2.0
"""Runs that learn from preferences: what was preferred becomes likelier, and a stopped run goes on
bit for bit."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from checkpoints import store
from checkpoints.load import load_checkpoint
from griffin_lm import main as griffin
from tests.checkpoints import run_steps
from tests.training.finetuning.capitals import write_pairs
from training.observe.metrics import read_metrics

TRAINED = ("loss", "reward_margin", "held_out_accuracy", "retention_loss")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


def command(base: Path, pairs: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        *("finetune", str(base), str(pairs), "--method", "dpo", "--run-dir", str(run_dir)),
        *("--dtype", "float32", "--remat", "none", "--sequence-length", "64", "--batch-size", "2"),
        *("--epochs", "6", "--log-every", "1", "--save-every", "4", "--devices", "1"),
        *("--no-tensorboard", "--eval-data", str(pairs), "--eval-every", "6", *more),
    ]


def records(run_dir: Path) -> list[dict]:
    return [
        {name: record[name] for name in TRAINED if name in record}
        for record in read_metrics(run_dir / "metrics.jsonl")
    ]


def test_stopped_it_goes_on_bit_for_bit(base: Path, pairs: Path, tmp_path: Path, capsys):
    """By LoRA, beside a retention loss."""
    kept = tmp_path / "kept.txt"
    kept.write_text("what is to be kept, and kept " * 20)
    more = ["--lora.rank", "2", "--learning-rate", "1e-2"]
    more += ["--retain", "kl", "--retain-data", f"text:{kept}", "--retain-batch-size", "2"]
    run_dir = tmp_path / "run"
    assert griffin(command(base, pairs, run_dir, *more)) == 0, capsys.readouterr()
    output = capsys.readouterr().out
    assert "4 preferences; the longest, " in output
    assert "12 steps of 2 of them" in output
    assert "step 12: of 4 preferences held_out_loss " in output
    whole = records(run_dir)
    assert len(whole) == 12
    assert whole[0]["loss"] == pytest.approx(np.log(2), rel=1e-4)
    assert whole[-1]["loss"] < 0.6
    assert whole[-1]["held_out_accuracy"] == 1
    assert whole[-1]["retention_loss"] > 0
    params = {n: np.asarray(a) for n, a in run_steps.restore(run_dir).params.items()}
    assert store.all_steps(run_dir) == [8, 12]
    shutil.rmtree(run_dir / "checkpoints/12")  # as if it had been stopped before
    shutil.rmtree(run_dir / "adapter")
    assert griffin(command(base, pairs, run_dir, *more)) == 0
    for name, value in run_steps.restore(run_dir).params.items():
        np.testing.assert_array_equal(params[name], value, name)
    assert records(run_dir) == whole
    assert (run_dir / "adapter/adapter_config.json").is_file()
    load_checkpoint(run_dir)


@pytest.mark.slow
def test_in_full_by_kto(base: Path, pairs: Path, tmp_path: Path, capsys):
    run_dir = tmp_path / "run"
    given = command(base, pairs, run_dir, "--method", "kto", "--learning-rate", "3e-3")
    assert griffin(given) == 0, capsys.readouterr()
    log = read_metrics(run_dir / "metrics.jsonl")
    assert log[-1]["reward_desirable"] > 0 > log[-1]["reward_undesirable"]
    assert log[-1]["held_out_loss"] < log[0]["loss"]
