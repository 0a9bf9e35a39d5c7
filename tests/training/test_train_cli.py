# SPDX-License-Identifier: Apache-2.0
"""`griffin train`: where its defaults come from, and a run that goes on by its folder alone."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import griffin_lm
from checkpoints import store
from recurrentgemma.errors import UserError
from recurrentgemma.presets import PRESETS
from recurrentgemma.sharding import MeshConfig
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from training import loop, run, train_cli
from training.configs import TrainConfig
from training.launch import Launch, remember
from training.named_runs import RUNS
from training.run_folder import METRICS
from training.train_cli import check_run_dir, options_given, parse

ONE = Launch(devices=1, tensorboard=False)
MODEL = (  # griffin_100m made small
    "--model.width 32 --model.mlp-width 64 --model.num-layers 2 --model.lru-width 32 "
    "--model.num-gate-blocks 2 --model.num-heads 2 --model.head-dim 16 --model.attention-window 16 "
    "--model.pattern recurrent local_attention"
)
SHAPE = "--batch-size 8 --sequence-length 16 --steps 3 --log-every 1 --no-tensorboard"


def griffin(command: str) -> int:
    return griffin_lm.main(command.split())


def test_the_words_of_a_command_line():
    given = options_given(["--a.b_c=1", "--d", "2", "--e", "--f"])
    assert given == {"a.b-c": "1", "d": "2", "e": "--f", "f": ""}


def test_where_the_defaults_come_from(small: TrainConfig, tmp_path: Path):
    assert parse([]).config == RUNS["tiny_bytes"]()
    assert parse(["--preset=demo"]).config == RUNS["demo"]()
    assert parse(["--preset", "griffin_1b"]).launch.mesh == MeshConfig(data=1, fsdp=-1)
    assert parse(["--preset", "tiny"]).launch == Launch()
    scaled = parse(["--preset", "griffin_1b", "--batch_size", "64", "--row-length", "1024"]).config
    assert scaled.steps == round(25e9 / (64 * 1024))
    few = parse(["--preset", "griffin_1b", "--steps", "1_000"]).config
    assert (few.steps, few.optimizer.warmup_steps) == (1000, 50)
    run.begin_run(tmp_path, small, ByteTokenizer())
    remember(tmp_path, ONE)
    arguments = parse(["--run-dir", str(tmp_path), "--log-every", "7"])
    assert arguments.config == dataclasses.replace(small, log_every=7)
    assert arguments.launch == ONE


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


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--preset griffin_1b", "griffin_1b has nothing to learn from: give it --data.sources"),
        ("--preset hawk_1b --data.sources text:a", "there is no tokenizer: give --tokenizer"),
        ("--run-dir absent", "absent does not exist, so there is no run to go on with; to begin"),
        ("--run-dir thesis", "thesis has no config.json, so there is no run to go on with"),
        ("--run-dir broken", "broken/config.json: "),
        ("--run-dir a", "a is a file, so there is no run to go on with"),
        ("--run-dir lost", "lost has checkpoints and no config.json, which says how the run is"),
        ("--run-dir absent --text a.txt", "which: `griffin train --preset NAME --run-dir absent"),
        ("--preset tiny_bytes --run-dir gs://bucket/run", "run: a URL; a run is kept in a folder"),
        (
            "--preset griffin_1b --tokenizer bytes --data.sources parquet:gs://b/*.parquet",
            "'parquet:gs://b/*.parquet' is a URL; files are read from disk: mount the bucket",
        ),
        (
            "--preset griffin_1b --tokenizer bytes --data.sources text:a --model.vocab-size 200",
            "model.vocab_size=200 is too small for the tokenizer 'bytes', which has 261 ids",
        ),
    ],
)
def test_what_is_refused(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, file in (("thesis", "thesis.tex"), ("broken", "config.json")):
        Path(folder).mkdir()
        Path(folder, file).write_text("{")
    Path("lost", "checkpoints", "3", "config").mkdir(parents=True)
    Path("a").write_text("some text")
    assert griffin(f"train {command} --devices 1") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not Path("absent").exists()


def test_from_a_checkpoint_alone(
    small: TrainConfig, song: Path, tmp_path: Path, capsys, monkeypatch
):
    """The model and its tokenizer are the checkpoint's."""
    monkeypatch.chdir(tmp_path)
    optimizer = dataclasses.replace(small.optimizer, warmup_steps=0)
    base = dataclasses.replace(small, steps=2, optimizer=optimizer)
    assert loop.train(base, tmp_path / "base", Launch(devices=1))
    command = ["train", "--init-from", "base", "--steps", "2", "--devices", "1", "--no-tensorboard"]
    assert griffin_lm.main(command) == 2
    assert "nothing to train base on: give --text" in capsys.readouterr().err
    given = [*command, "--text", str(song), "--batch-size", "2", "--sequence-length", "32"]
    assert griffin_lm.main(given) == 0, capsys.readouterr()
    begun = run.read_config(tmp_path / "runs/base-more")
    assert begun.model.width == small.model.width
    assert begun.optimizer.learning_rate == 1e-4
    assert (begun.model.param_dtype, begun.init_from) == ("float32", str(tmp_path / "base"))
    assert griffin_lm.main(["train", "--run-dir", "runs/base-more"]) == 0
    assert "is trained: step 2" in capsys.readouterr().out


def test_a_url_is_no_folder():
    check_run_dir(Path("runs/a:b/c"))
    with pytest.raises(UserError, match="a URL"):
        check_run_dir(Path("s3://bucket"))


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    texts = [f"{n} green bottles hanging on the wall, and if one should fall" for n in range(200)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "songs.parquet")
    return tmp_path / "songs.parquet"


def test_a_model_preset_on_parquet_goes_on_by_its_folder_alone(
    parquet: Path, tmp_path: Path, monkeypatch, capsys
):
    """Tokenised, trained on a mesh, and gone on with from another working directory; longer, too:
    what it is and how it was started stand in its folder."""
    monkeypatch.chdir(tmp_path)
    assert griffin("data tokenize parquet:songs.parquet --tokenizer bytes --out tokens") == 0
    command = f"train --preset griffin_100m --data.sources arrayrecord:tokens {MODEL} {SHAPE}"
    assert griffin(f"{command} --run-dir run --mesh.fsdp 2 --devices 2 --skip-limit 3") == 0
    shown = capsys.readouterr().out
    assert "cannot be exported to transformers: it always scales embeddings (sc" in shown
    assert "2 devices, fsdp=2, in 1 processes" in shown
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["model"]["vocab_size"] == 384
    assert saved["train"]["tokenizer"] == str(tmp_path / "tokens")
    assert saved["train"]["optimizer"]["schedule"] == "wsd"
    assert saved["model"]["dtype"] == "bfloat16"
    assert saved["model"]["scan_layers"]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert griffin("train --run-dir ../run") == 0
    assert "run is trained: step 3 of 3" in capsys.readouterr().out
    assert griffin("train --run-dir ../run --steps 6 --keep 3") == 0
    shown = capsys.readouterr().out
    assert "goes on after step 2 with changed keep: 2 -> 3; steps: 3 -> 6" in shown
    assert "2 devices, fsdp=2, in 1 processes" in shown
    assert store.latest_step(tmp_path / "run") == 6
    assert len((tmp_path / "run" / METRICS).read_text().splitlines()) == 6
    assert griffin("train --run-dir ../run --seed 4") == 2
    error = capsys.readouterr().err
    assert "seed: 0 -> 4. Ask for the saved values to go on with it (`griffin train --run" in error
    assert not (elsewhere / "run").exists()


def test_the_same_command_goes_on_whatever_the_mesh(parquet: Path, tmp_path: Path, monkeypatch):
    """The vocabulary stays what the run began with."""
    configs = []
    monkeypatch.setattr("training.train_cli.train", lambda *given: configs.append(given) or True)
    sources = f"--data.sources parquet:{parquet} --tokenizer bytes --run-dir {tmp_path}/run"
    command = f"train --preset griffin_100m {sources} {MODEL} {SHAPE}"
    assert griffin(command) == 0
    config = configs[0][0]
    assert config.model.vocab_size == 384
    run.begin_run(tmp_path / "run", config, ByteTokenizer())
    assert griffin(f"{command} --mesh.fsdp 1 --mesh.tensor 8") == 0
    assert configs[1][0] == config
    other = command.replace("/run ", "/new ")
    assert griffin(f"{other} --mesh.fsdp 1 --mesh.tensor 8") == 0
    assert configs[2][0].model.vocab_size == 1024


def test_the_first_command_goes_on_with_steps_that_have_changed(small, tmp_path, monkeypatch):
    """A scheduler that starts it again does not undo what was asked for since."""
    configs = []
    monkeypatch.setattr("training.train_cli.train", lambda *given: configs.append(given) or True)
    saved = dataclasses.replace(parse(["--preset", "tiny"]).config, steps=5000)
    run.begin_run(tmp_path, saved, ByteTokenizer())
    command = f"train --preset tiny --run-dir {tmp_path}"
    assert griffin(command) == 0
    assert configs[0][0].to_json() == saved.to_json()
    assert griffin(f"{command} --steps 7000 --optimizer.warmup-steps 3") == 0
    asked = configs[1][0]
    assert (asked.steps, asked.optimizer.warmup_steps) == (7000, 3)


def test_a_stopped_run_names_both_commands(small: TrainConfig, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(loop.cluster, "should_stop", lambda *_: True)
    assert not loop.train(small, tmp_path / "run", ONE)
    shown = capsys.readouterr().out
    assert "stopped at step 1; the same command goes on from there, as does `griffin train" in shown
