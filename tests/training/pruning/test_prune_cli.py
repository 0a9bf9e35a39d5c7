# SPDX-License-Identifier: Apache-2.0
"""`griffin prune`: from a run whose units have died to a smaller checkpoint; what it refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import recurrentgemma as rg
from eval.perplexity import perplexity
from recurrentgemma.errors import UserError
from tests.checkpoints import run_steps
from training import loop
from training.configs import TrainConfig
from training.launch import Launch
from training.observe.metrics import read_metrics
from training.pruning.config import PruneConfig
from training.pruning.prune_cli import main
from training.run import read_config

SIZES = ["--batch-size", "2", "--chunk-length", "64"]


@pytest.fixture(scope="module")
def run(small: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose penalty has killed most units."""
    prune = PruneConfig(penalty=1.3, span=1.0, noise=5e-5)
    config = dataclasses.replace(small, prune=prune, steps=40, save_every=20)
    folder = tmp_path_factory.mktemp("prune") / "run"
    assert loop.train(config, folder, Launch(devices=1, tensorboard=False))
    return folder


def test_dead_units_are_removed_and_the_text_is_as_likely(
    run: Path, song: Path, tmp_path: Path, capsys
):
    shares = [record["zero_units"] for record in read_metrics(run / "metrics.jsonl")]
    assert shares[0] == 0
    assert 0.5 < shares[-1] < 1
    out = tmp_path / "smaller"
    given = [str(run), str(out), "--data", f"text:{song}", "--multiple", "8", *SIZES, "--json"]
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert result["exact"]
    assert result["after"]["mlp_width"] < result["before"]["mlp_width"] == 64
    assert result["after"]["parameters"] < result["before"]["parameters"]
    bits = result["before"]["bits_per_byte"]
    assert result["after"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    smaller = rg.load(out)
    assert smaller.config.mlp_width == result["after"]["mlp_width"]
    text = song.read_text()
    assert perplexity(smaller, [text]).bits_per_byte == pytest.approx(bits, rel=1e-5)
    half = tmp_path / "half"
    given = [str(run), str(half), "--data", f"text:{song}", "--keep", "0.1", "--multiple", "4"]
    assert main([*given, *SIZES, "--criterion", "random", "--eval-data", f"text:{song}"]) == 0
    assert rg.load(half).config.mlp_width == 8
    assert "by random" in capsys.readouterr().out


def test_it_goes_on_bit_for_bit(run: Path, tmp_path: Path):
    """The count of updates, by which penalty and noise go, is in the checkpoint."""
    shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints/40")
    assert loop.train(read_config(run), tmp_path / "again", Launch(devices=1, tensorboard=False))
    params = run_steps.restore(run, 40).params
    for name, array in run_steps.restore(tmp_path / "again", 40).params.items():
        np.testing.assert_array_equal(array, params[name], err_msg=name)


def test_a_user_s_mistakes(run: Path, song: Path, tmp_path: Path):
    def error(message: str, *given: str) -> None:
        with pytest.raises(UserError, match=message):
            main([*SIZES, *given])

    data = ["--data", f"text:{song}"]
    error("choose another|not empty|exists", str(run), str(run), *data)
    error("no such file or directory", str(tmp_path / "absent"), str(tmp_path / "out"), *data)
    error("leaves nothing", str(run), str(tmp_path / "out"), *data, "--keep", "0.1")
    with pytest.MonkeyPatch.context() as patch:  # before any text is read
        patch.setattr("training.pruning.activity.unit_activity", None)
        error("removes nothing", str(run), str(tmp_path / "out"), *data, "--keep", "0.9")
        error("keep=nan", str(run), str(tmp_path / "out"), *data, "--keep", "nan")
        error("multiple=0", str(run), str(tmp_path / "out"), *data, "--multiple", "0")
    error("no effect without --keep", str(run), "out", *data, "--criterion", "magnitude")
    error("no effect without --criterion random", str(run), "out", *data, "--seed", "3")
    error("expected at least 1", str(run), "out", *data, "--chunk-length", "0")
    error("no file matches", str(run), str(tmp_path / "out"), "--data", "text:absent.txt")
    assert not (tmp_path / "out").exists()
