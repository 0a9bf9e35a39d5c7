# SPDX-License-Identifier: Apache-2.0
"""`griffin eval dynamic`: its numbers, its folder, killed and started again, and what a user got
wrong."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import griffin_lm
import recurrentgemma as rg
from eval.dynamic.config import DynamicConfig, OptimizerConfig
from eval.dynamic.dynamic_cli import main
from eval.dynamic.stream import dynamic_evaluation
from eval.results import read_result
from recurrentgemma.errors import UserError
from tests.docs.world import PLAY, write_model
from tests.eval.dynamic.small import CONFIG

ROOT = Path(__file__).parents[3]
TEXTS = [PLAY * 2, "Über " * 7]
SMALL = ["--devices", "1", "--segment-length", "16", "--optimizer.learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dynamic")
    write_model(folder / "run", CONFIG)
    for name, text in zip("ab", TEXTS, strict=True):
        (folder / f"{name}.txt").write_text(text)
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    return [str(folder / "run"), "--data", f"text:{folder}/*.txt", *SMALL, *more]


def test_the_numbers_are_those_of_the_function(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    retained = ["--retention.data", f"text:{folder}/b.txt"]
    assert main(arguments(folder, *retained, "--out", str(out), "--json")) == 0
    shown = capsys.readouterr()
    assert "warning" not in shown.err
    result = json.loads(shown.out.splitlines()[-1])
    lm = rg.load(folder / "run")
    choices = DynamicConfig(segment_length=16, optimizer=OptimizerConfig(learning_rate=1e-2))
    for name, chosen in (("adapted", choices), ("static", choices.static())):
        expected = dynamic_evaluation(lm, TEXTS, chosen)
        assert result[name]["nats"] == pytest.approx(expected.score.nats, rel=1e-5)
        assert result[name]["bytes"] == expected.score.bytes
    assert result["adapted"]["nats"] < result["static"]["nats"]
    assert result["forgotten"] is not None
    assert {path.name for path in out.iterdir()} == {
        *(".lock", "result.json", "loss_by_position.svg")
    }
    settings = json.loads((out / "result.json").read_text())["settings"]
    assert (settings["rate"], settings["eps"]) == (1e-2, None)
    changed = (out / "result.json").stat().st_mtime_ns
    assert main(arguments(folder, *retained, "--out", str(out))) == 0  # it is there already
    assert (out / "result.json").stat().st_mtime_ns == changed
    with pytest.raises(UserError, match=r"choices.segment_length 16 \(here 8\)"):
        main([*arguments(folder, *retained, "--out", str(out)), "--segment-length", "8"])


def test_statistics_are_made_once_and_kept(folder: Path, tmp_path: Path, capsys):
    path = tmp_path / "rms"
    rms = ["--optimizer.algorithm", "rms", "--statistics.file", str(path), "--json", "--no-static"]
    data = ["--statistics.data", f"text:{folder}/a.txt", "--statistics.segments", "4"]
    results = []
    for more in (data, []):
        assert main(arguments(folder, *rms, *more)) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert results[0]["adapted"]["nats"] == results[1]["adapted"]["nats"]
    assert "static" not in results[0]


KILLED = """
import os, signal, sys
import eval.results
from eval.dynamic import stream
stream.KEPT_EVERY = stream.KEPT_SHARE = 0.0
keep, kept = eval.results.Results.keep, []
def killing(self, name, *given):
    keep(self, name, *given)
    kept.append(name)
    if kept.count("adapted") == 3:
        os.kill(os.getpid(), signal.SIGKILL)
eval.results.Results.keep = killing
import griffin_lm
griffin_lm.main(["eval", "dynamic", *sys.argv[1:]])
"""


def test_killed_and_started_again_it_writes_the_same(folder: Path, tmp_path: Path):
    argv = arguments(folder, "--out", str(tmp_path / "killed"))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), *argv]
    stopped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    kept = sorted(path.stem for path in (tmp_path / "killed/progress").glob("*.safetensors"))
    assert kept == ["adapted", "static"]
    assert main(argv) == 0
    assert main(arguments(folder, "--out", str(tmp_path / "whole"))) == 0
    both = [read_result(tmp_path / name)["result"] for name in ("killed", "whole")]
    for name in ("static", "adapted"):
        first, second = (one[name] for one in both)
        assert first["nats"] == pytest.approx(second["nats"], rel=1e-6)  # compiled another way
        assert first["tokens"] == second["tokens"]
    assert both[0]["updates"] == both[1]["updates"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--optimizer.algorithm", "rms"], "give --statistics.data"),
        (["--statistics.segments", "4"], "no effect without --optimizer.algorithm rms"),
        (["--retention.tokens", "5"], "no effect without --retention.data"),
        (["--streams", "0"], "--streams 0: expected at least 1"),
        (["--replay.rows", "1", "--replay.of", "text"], "give the text to replay"),
        (["--layers", "9"], "layers='9': the model has layers 0 to 1"),
        (["--optimizer.learning-rate", "1e30"], "the loss is not finite from token 17 on"),
    ],
)
def test_what_a_user_got_wrong(folder: Path, more: list[str], message: str, capsys):
    assert griffin_lm.main(["eval", "dynamic", *arguments(folder), *more]) == 2
    assert message in capsys.readouterr().err


def test_learning_that_makes_it_worse_is_warned_of(folder: Path, capsys):
    argv = arguments(folder, "--optimizer.learning-rate", "3", "--json")
    assert griffin_lm.main(["eval", "dynamic", *argv]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert result["adapted"]["loss"] > result["static"]["loss"]
    assert "warning: learning made it worse: " in shown.err
    assert "lower --optimizer.learning-rate, which is 3," in shown.err


def test_an_empty_stream(folder: Path, tmp_path: Path, capsys):
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    argv = [str(folder / "run"), "--data", f"jsonl:{tmp_path}/empty.jsonl", *SMALL]
    assert griffin_lm.main(["eval", "dynamic", *argv]) == 2
    assert "there is no text to score" in capsys.readouterr().err
