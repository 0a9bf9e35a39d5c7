# SPDX-License-Identifier: Apache-2.0
"""What a run may be told: sources, carried documents, a mesh, a start, traces; and what it says
when something is wrong."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from checkpoints import store
from checkpoints.files import locked
from griffin_lm import main as griffin
from recurrentgemma.sharding import MeshConfig
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.tokenizer import train_sentencepiece
from tests.checkpoints import run_steps
from training import loop, run, run_folder
from training.configs import TrainConfig
from training.data.batches import Batches
from training.data.config import DataConfig
from training.data.shard_writer import tokenise
from training.launch import Launch
from training.observe import progress
from training.observe.metrics import TIMINGS, read_metrics

ONE = Launch(devices=1, tensorboard=False)


@pytest.fixture(scope="module")
def sourced(small: TrainConfig, song, tmp_path_factory) -> TrainConfig:
    """Two sources whose documents go on from batch to batch."""
    folder = tmp_path_factory.mktemp("sources")
    lines = [json.dumps({"text": line}) for line in song.read_text().splitlines()]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    data = DataConfig(
        sources=(f"text:{song}", f"jsonl:{folder}/lines.jsonl"),
        weights=(3.0, 1.0),
        eval_sources=(f"jsonl:{folder}/*.jsonl",),
        long_documents="carry",
    )
    return dataclasses.replace(small, text=(), data=data, eval_tokens=30)


def records(run_dir) -> list[dict]:
    lines = read_metrics(run_dir / run_folder.METRICS)
    for record in lines:
        for name in TIMINGS:
            del record[name]
    return lines


def assert_same(one, other) -> None:
    assert records(one) == records(other)
    params = run_steps.restore(other, 12).params
    for name, array in run_steps.restore(one, 12).params.items():
        np.testing.assert_array_equal(array, params[name], err_msg=name)


def test_documents_that_go_on_and_a_run_that_goes_on(sourced, tmp_path, monkeypatch):
    """The model's state is in the checkpoint: bit for bit the same, though stopped inside a
    document of many rows."""
    assert loop.train(sourced, tmp_path / "whole", ONE)
    assert store.latest_step(tmp_path / "whole") == 12
    real = Batches.__next__

    def stopped(batches):
        if len(carried) == 6:
            raise KeyboardInterrupt
        carried.append(real(batches))
        return carried[-1]

    carried = []
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__next__", stopped)
        with pytest.raises(KeyboardInterrupt):
            loop.train(sourced, tmp_path / "stopped", ONE)
    assert any((batch.positions_BT[:, 0] > 0).any() for batch in carried)
    assert store.latest_step(tmp_path / "stopped") == 4
    assert loop.train(sourced, tmp_path / "stopped", ONE)
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    assert "held_out_bits_per_byte" in records(tmp_path / "whole")[-1]


def test_the_carried_state_is_used(sourced, tmp_path):
    """The first batch begins every document; from the second on, cutting has another loss."""
    short = dataclasses.replace(
        sourced,
        steps=3,
        log_every=1,
        optimizer=dataclasses.replace(sourced.optimizer, warmup_steps=1),
    )
    cut = dataclasses.replace(short, data=dataclasses.replace(short.data, long_documents="cut"))
    assert loop.train(short, tmp_path / "carry", ONE)
    assert loop.train(cut, tmp_path / "cut", ONE)
    losses = [[r["loss"] for r in records(tmp_path / name)] for name in ("carry", "cut")]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)  # two programs
    assert losses[0][1] != pytest.approx(losses[1][1], rel=1e-4)


@pytest.mark.slow
def test_a_mesh_has_the_losses_of_one_device(sourced, tmp_path):
    """Documents carried on, rows in two parts, held-out text scored over the mesh."""
    launch = Launch(devices=4, mesh=MeshConfig(data=1, fsdp=2, sequence=2), tensorboard=False)
    parted = dataclasses.replace(sourced, grad_accumulation_steps=2, steps=6)
    assert loop.train(parted, tmp_path / "mesh", launch)
    assert loop.train(dataclasses.replace(sourced, steps=6), tmp_path / "one", ONE)
    for got, expected in zip(records(tmp_path / "mesh"), records(tmp_path / "one"), strict=True):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-4), name


def test_a_run_begins_with_another_ones_parameters(small, sourced, tmp_path):
    first = dataclasses.replace(small, steps=5)
    assert loop.train(first, tmp_path / "first", ONE)
    config = dataclasses.replace(small, init_from=str(tmp_path / "first"), steps=5, log_every=1)
    assert loop.train(config, tmp_path / "second", ONE)
    begun, ended = records(tmp_path / "second")[0], records(tmp_path / "first")[-1]
    assert begun["loss"] < ended["loss"] + 0.5
    wider = dataclasses.replace(config, model=dataclasses.replace(small.model, width=64))
    with pytest.raises(ValueError, match=r"first.* says width=32, the config passed 64"):
        loop.train(wider, tmp_path / "third", ONE)
    absent = dataclasses.replace(config, init_from=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"nowhere: no such file or directory; expected a run"):
        loop.train(absent, tmp_path / "fourth", ONE)
    assert not (tmp_path / "third").exists()
    assert not (tmp_path / "fourth").exists()


def test_what_may_change_is_said_and_the_run_goes_on(small, tmp_path, capsys, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:  # after step 4
        patch.setattr(store.Checkpoints, "save", full)
        with pytest.raises(OSError, match="No space"):
            loop.train(small, tmp_path / "run", ONE)
    other = dataclasses.replace(small, keep=5, log_every=3)
    assert loop.train(other, tmp_path / "run", ONE)
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "goes on after step 0 with changed keep: 2 -> 5; log_every: 2 -> 3" in shown
    assert store.read_run_config(tmp_path / "run")[1]["keep"] == 5
    with pytest.raises(ValueError, match=r"another config .*sequence_length: 32 -> 16"):
        loop.train(dataclasses.replace(other, sequence_length=16), tmp_path / "run", ONE)


def test_tokens_of_another_tokenizer_are_refused(small, song, tmp_path):
    tokenise((f"text:{song}",), "bytes", tmp_path / "tokens", shards=1, workers=1)
    data = DataConfig(sources=(f"arrayrecord:{tmp_path}/tokens",))
    config = dataclasses.replace(small, text=(), data=data, steps=5)
    assert loop.train(config, tmp_path / "run", ONE)
    trained = train_sentencepiece([song.read_text()], 300)
    (tmp_path / "other").mkdir()
    trained.save(tmp_path / "other")
    wrong = dataclasses.replace(
        config,
        tokenizer=str(tmp_path / "other"),
        model=dataclasses.replace(small.model, vocab_size=300),
    )
    with pytest.raises(ValueError, match="tokenizer"):
        loop.train(wrong, tmp_path / "wrong", ONE)
    assert not (tmp_path / "wrong").exists()


def test_a_held_out_source_that_is_wrong_costs_no_steps(small, sourced, tmp_path):
    """What can be known is said before the first step; after it, the step is saved first."""

    def scored_on(path) -> TrainConfig:
        data = dataclasses.replace(sourced.data, eval_sources=(f"jsonl:{path}",))
        return dataclasses.replace(sourced, data=data, steps=6, eval_every=3, save_every=100)

    with pytest.raises(ValueError, match="no file matches"):
        loop.train(scored_on(tmp_path / "absent.jsonl"), tmp_path / "run", ONE)
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match=r"blank\.jsonl: there is no text to score"):
        loop.train(scored_on(tmp_path / "blank.jsonl"), tmp_path / "run", ONE)
    assert not (tmp_path / "run").exists()

    late = [json.dumps({"text": "ten green bottles"})] * 64 + ['{"text"']
    (tmp_path / "late.jsonl").write_text("\n".join(late))  # what the last step alone reads
    with pytest.raises(ValueError, match=r"late\.jsonl:65 is not JSON"):
        loop.train(scored_on(tmp_path / "late.jsonl"), tmp_path / "run", ONE)
    assert store.latest_step(tmp_path / "run") == 6


def test_a_run_that_diverges_ends(small, tmp_path, capsys):
    """With an infinite z-loss every loss is."""
    hot = dataclasses.replace(small, z_loss=1e38, skip_limit=3)
    with pytest.raises(progress.Diverged, match=r"step 3: .* 3 steps in a row, .*--skip-limit"):
        loop.train(hot, tmp_path / "run", ONE)
    assert capsys.readouterr().out.count("is not finite; step skipped") == 3
    with pytest.raises(progress.Diverged, match="step 3: "):  # from nothing: no step was saved
        loop.train(hot, tmp_path / "run", ONE)


def test_steps_that_are_skipped_are_counted_across_a_restart(small, tmp_path):
    hot = dataclasses.replace(small, z_loss=1e38, skip_limit=4, save_every=3)
    for _ in range(2):
        with pytest.raises(progress.Diverged, match=r"step 4: .* 4 steps in a row"):
            loop.train(hot, tmp_path / "run", ONE)
        assert store.latest_step(tmp_path / "run") == 3


def test_steps_are_traced_and_recorded(small, tmp_path, capsys):
    launch = Launch(devices=1, profile=2)
    config = dataclasses.replace(small, steps=6)
    assert loop.train(config, tmp_path / "run", launch)
    assert "traced into" in capsys.readouterr().out
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    record = read_metrics(tmp_path / "run" / run_folder.METRICS)[-1]
    assert record["padding"] == pytest.approx(0)
    assert record["learning_rate"] == pytest.approx(0.001 + 0.009 * 0.5 * (1 - np.cos(np.pi / 2)))
    assert 0 < record["goodput"] <= 1
    assert record["param_norm"] > record["grad_norm"] > 0
    assert record["mfu"] is None  # of a CPU


def test_the_tokenizer_is_the_runs_own(small, tmp_path):
    run.begin_run(tmp_path / "run", small, ByteTokenizer())
    gone = dataclasses.replace(small, tokenizer="/nowhere/tokenizer.model")
    assert run.run_tokenizer(tmp_path / "run", gone, ()).vocab_size == 261
    with pytest.raises(ValueError, match=r"/nowhere/tokenizer\.model"):
        run.run_tokenizer(tmp_path / "other", gone, ())
    with pytest.raises(ValueError, match="there is no tokenizer: give --tokenizer"):
        run.run_tokenizer(tmp_path / "other", dataclasses.replace(small, tokenizer=""), ())


def test_the_command_of_a_run_that_was_stopped_says_so(song, tmp_path, monkeypatch, capsys):
    """By its exit status, if a scheduler is to start it again."""
    real = Batches.__next__

    def stop(batches: Batches):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(batches)

    command = ["train", "--preset", "tiny_bytes", "--text", str(song), "--steps", "3"]
    command += ["--run-dir", str(tmp_path / "run")]
    command += ["--model.num-layers", "1", "--model.no-scan-layers", "--batch-size", "2"]
    command += ["--sequence-length", "16", "--devices", "1", "--no-tensorboard"]
    command += ["--optimizer.warmup-steps", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__next__", stop)
        assert griffin([*command, "--stopped-status", "75"]) == 75
        assert "stopped at step 1; the same command goes on" in capsys.readouterr().out
        assert griffin(command) == 0
        assert "stopped at step 2" in capsys.readouterr().out
    assert griffin([*command, "--stopped-status", "75"]) == 0
    assert store.latest_step(tmp_path / "run") == 3


def test_a_run_is_trained_by_one_program_at_a_time(small, tmp_path):
    run.begin_run(tmp_path / "run", small, ByteTokenizer())
    with (
        locked(tmp_path / "run"),
        pytest.raises(ValueError, match="run is being written by another process; wait for it"),
    ):
        loop.train(small, tmp_path / "run", ONE)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_best_is_the_best_by_the_same_text(small):
    rankings = {
        run.ranking(small),
        run.ranking(dataclasses.replace(small, eval_tokens=9)),
        run.ranking(dataclasses.replace(small, eval_cut=True)),
        run.ranking(dataclasses.replace(small, eval_every=9, keep=9)),
    }
    assert len(rankings) == 3


def test_rows_in_parts_over_a_mesh_that_does_not_divide_them(small, tmp_path):
    parted = dataclasses.replace(small, grad_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"_steps=2 of batch_size=4: a batch of 2 rows does"):
        loop.train(parted, tmp_path / "run", Launch(devices=4))
