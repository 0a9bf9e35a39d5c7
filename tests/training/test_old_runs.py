# SPDX-License-Identifier: Apache-2.0
"""A run outlives a new option: what older versions wrote goes on as it was.

golden/configs/ holds the config.json of runs of every version from November 2026 on, and
golden/run-*.zip a run that was stopped at step 3 of 6, with its text and the metrics of all six.
Never renew these; add those of a new version beside them.
"""

import json
import shutil
from pathlib import Path

import pytest

import griffin_lm
from checkpoints.store import all_steps
from recurrentgemma.config import GriffinConfig
from training.configs import RENAMED, TrainConfig
from training.observe.metrics import read_metrics

GOLDEN = Path(__file__).parents[1] / "golden"
COMMAND: str = (
    "train --preset tiny --text songs.txt --run-dir run --steps 6 --optimizer.warmup-steps 1 "
    "--save-every 3 --keep 2 --batch-size 2 --row-length 16 --log-every 1 --model.width 8 "
    "--model.mlp-width 8 --model.lru-width 8 --model.num-gate-blocks 1 --model.num-heads 1 "
    "--model.head-dim 8 --model.num-layers 2 --model.pattern recurrent local_attention "
    "--model.vocab-size 262 --model.attention-window 8 --no-tensorboard --model.no-scan-layers "
    "--accumulate 2 --devices 1"
)
NEWEST = {  # options of November 2026 that older runs lack
    "model": ("remat", "scan_layers", "context_length"),
    "train": ("eval_cut", "lora", "z_loss", "accumulate", "skip_limit", "keep", "init_from"),
}


def griffin(command: str) -> int:
    return griffin_lm.main(command.split())


@pytest.mark.parametrize("path", sorted((GOLDEN / "configs").glob("*.json")), ids=lambda p: p.stem)
def test_configs_of_every_version(path: Path):
    """What a file has is kept, and what it may lack has the value that it stood for then."""
    saved = json.loads(path.read_text())
    model = GriffinConfig.from_json(saved["model"])
    assert saved["model"].items() <= model.to_json().items()
    config = TrainConfig.from_json(model, saved["train"])
    written = config.to_json()
    for name in saved["train"].keys() & RENAMED.keys():
        saved["train"][RENAMED[name]] = saved["train"].pop(name)
    for name in saved["train"]:
        if isinstance(saved["train"][name], dict):
            assert saved["train"][name].items() <= written[name].items(), name
        else:
            assert written[name] == saved["train"][name], name
    assert TrainConfig.from_json(model, json.loads(json.dumps(written))) == config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the run of November 2026 was started, with its text."""
    shutil.unpack_archive(GOLDEN / "run-2026-11.zip", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("without", [False, True], ids=["as it is", "without the newest options"])
def test_an_old_run_generates_and_goes_on(folder: Path, capsys, without: bool):
    if without:
        saved = json.loads((folder / "run/config.json").read_text())
        for part, names in NEWEST.items():
            for name in names:
                del saved[part][name]
        (folder / "run/config.json").write_text(json.dumps(saved))
    before = read_metrics(folder / "run/metrics.jsonl")
    assert griffin("generate run Ten --max-tokens 8 --temperature 0") == 0
    assert capsys.readouterr().out == "n" * 6 + "\x03\x03\n"
    assert griffin(COMMAND) == 0, capsys.readouterr().err
    assert all_steps(folder / "run") == [3, 6]
    after = read_metrics(folder / "run/metrics.jsonl")
    assert len(after) == 6
    for old, new in zip(before, after, strict=True):
        for name in ("loss", "grad_norm", "param_norm", "tokens", "epoch"):
            assert new[name] == pytest.approx(old[name], rel=1e-4), (new["step"], name)
    assert after[-1]["held_out_bits_per_byte"] == pytest.approx(
        before[-1]["held_out_bits_per_byte"], rel=1e-4
    )


def test_an_old_run_from_another_directory(folder: Path, monkeypatch, capsys):
    """Its relative path of the text meant the directory that it was started in, so the same name
    elsewhere is taken for another's; once it has gone on, its config says where the text is."""
    assert griffin(COMMAND) == 0
    assert json.loads((folder / "run/config.json").read_text())["train"]["text"] == [
        str(folder / "songs.txt")
    ]
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    command = COMMAND.replace("--run-dir run", "--run-dir ../run")
    capsys.readouterr()
    shutil.copy(folder / "songs.txt", elsewhere)
    assert griffin(command) == 2
    assert f"text: ['{folder}/songs.txt'] -> ['{elsewhere}/songs.txt']" in capsys.readouterr().err
    assert griffin(command.replace("songs.txt", "../songs.txt")) == 0
    assert "is trained: step 6 of 6" in capsys.readouterr().out
