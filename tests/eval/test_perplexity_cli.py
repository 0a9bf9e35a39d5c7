# SPDX-License-Identifier: Apache-2.0
"""`griffin eval perplexity`: its numbers, its folder, and what a user got wrong."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import griffin_lm
import recurrentgemma as rg
from eval.perplexity import perplexity
from eval.perplexity_cli import main
from eval.results import read_result
from recurrentgemma.errors import UserError
from recurrentgemma.presets import MQA
from tests.docs.world import CONFIG, PLAY, write_model

ROOT = Path(__file__).parents[2]
SMALL = ["--devices", "1", "--chunk-length", "32", "--batch-size", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("perplexity")
    write_model(folder / "run")
    (folder / "a.txt").write_text(PLAY * 3)
    (folder / "b.txt").write_text("Über " * 7)
    lines = [json.dumps({"text": text}) + "\n" for text in ("", "one line", PLAY)]
    (folder / "c.jsonl").write_text("".join(lines))
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    data = [f"text:{folder}/*.txt", f"jsonl:{folder}/c.jsonl"]
    return [str(folder / "run"), "--data", *data, *SMALL, *more]


def test_the_numbers_are_those_of_the_texts(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(arguments(folder, "--out", str(out), "--json")) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    texts = [PLAY * 3, "Über " * 7, "", "one line", PLAY]
    lm = rg.load(folder / "run")
    expected = perplexity(lm, texts, chunk_length=32)
    assert result["nats"] == pytest.approx(expected.nats, rel=1e-6)
    assert result["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert (result["documents"], result["bytes"]) == (5, expected.bytes)
    first, second = result["by_source"].values()
    assert first["bytes"] == len((PLAY * 3 + "Über " * 7).encode())
    assert first["nats"] + second["nats"] == pytest.approx(result["nats"])
    positions = result["by_position"]
    assert sum(p["tokens"] for p in positions) == result["tokens"]
    assert sum(p["tokens"] * p["loss"] for p in positions) > 0
    assert positions[0]["name"] == "1 to 31"
    assert positions[-1]["documents"] == 1
    assert {path.name for path in out.iterdir()} == {
        *(".lock", "result.json", "documents.jsonl", "loss_by_position.svg"),
    }
    documents = [json.loads(line) for line in (out / "documents.jsonl").read_text().splitlines()]
    assert [Path(one["name"]).name for one in documents] == [
        *("a.txt", "b.txt", "c.jsonl:1", "c.jsonl:2", "c.jsonl:3"),
    ]
    assert documents[2]["tokens"] == 0
    assert read_result(out)["settings"]["batch_size"] == 2
    changed = (out / "result.json").stat().st_mtime_ns
    assert main(arguments(folder, "--out", str(out))) == 0  # it is there already
    assert (out / "result.json").stat().st_mtime_ns == changed
    with pytest.raises(UserError, match=r"chunk_length 32 \(here 64\)"):
        main([*arguments(folder, "--out", str(out)), "--chunk-length", "64"])


KILLED = """
import os, signal, sys
import eval.perplexity
eval.perplexity.KEEP_SECONDS = 0.0
keep, kept = eval.perplexity.Results.keep, []
def killing(self, *given):
    keep(self, *given)
    kept.append(given)
    if len(kept) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
eval.perplexity.Results.keep = killing
import griffin_lm
griffin_lm.main(["eval", "perplexity", *sys.argv[1:]])
"""


def test_killed_and_started_again_it_writes_the_same(folder: Path, tmp_path: Path, capsys):
    argv = arguments(folder, "--out", str(tmp_path / "killed"))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), *argv]
    stopped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    progress = tmp_path / "killed/progress"
    assert (progress / "rows.safetensors").is_file()
    (folder / "a.txt").write_text(PLAY * 4)
    with pytest.raises(UserError, match=r"data\.fingerprint"):
        main(argv)
    (folder / "a.txt").write_text(PLAY * 3)
    assert main(argv) == 0
    assert not progress.exists()
    assert main(arguments(folder, "--out", str(tmp_path / "whole"))) == 0
    killed, whole = (read_result(tmp_path / name) for name in ("killed", "whole"))
    assert killed["result"] == whole["result"]


def test_what_a_user_got_wrong(folder: Path, tmp_path: Path, capsys):
    import dataclasses

    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    run = str(folder / "run")
    for argv, message in (
        ([run, "--data", f"jsonl:{tmp_path}/empty.jsonl"], "there is no text to score"),
        ([run, "--data", f"text:{tmp_path}/no*.txt"], "no file matches"),
        ([run, "--data", "txt:a"], "unknown kind 'txt'"),
        ([run, "--data", f"text:{folder}/a.txt", "--stride", "4"], "no effect without --window"),
        ([run, "--data", f"text:{folder}/a.txt", "--batch-size", "0"], "expected at least 1"),
    ):
        assert griffin_lm.main(["eval", "perplexity", *argv, "--devices", "1"]) == 2
        assert message in capsys.readouterr().err
    mqa = dataclasses.replace(CONFIG, pattern=MQA, context_length=64, num_layers=1)
    write_model(tmp_path / "mqa", mqa)
    long = [str(tmp_path / "mqa"), "--data", f"text:{folder}/a.txt", *SMALL]
    with pytest.raises(UserError, match=r"a.txt has 177 tokens.*--window 64 --stride 32"):
        main(long)
    with pytest.raises(UserError, match="windows of 65 tokens are longer"):
        main([*long, "--window", "65"])
    assert main([*long, "--window", "64", "--stride", "32", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "by position (read by windows of 64 tokens; no intervals: " in shown
    assert "tokens before, in the document" in shown
    result = json.loads(shown.splitlines()[-1])
    assert result["tokens"] == len(PLAY * 3)
