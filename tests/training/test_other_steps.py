# SPDX-License-Identifier: Apache-2.0
"""A run that is given other steps: equal to one that had them from the start, or refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import recurrentgemma as rg
from checkpoints import store
from checkpoints.files import locked
from recurrentgemma.errors import UserError
from tests.checkpoints import run_steps
from training import loop, other_steps, run
from training.configs import TrainConfig
from training.launch import Launch
from training.observe.metrics import TIMINGS, read_metrics
from training.optim import decay_start
from training.pruning.config import PruneConfig
from training.run_folder import METRICS

ONE = Launch(devices=1, tensorboard=False)


@pytest.fixture(scope="module")
def wsd(small: TrainConfig) -> TrainConfig:
    """12 steps, of which the learning rate falls in the last two; a checkpoint at the end alone,
    but for the one before it falls."""
    optimizer = dataclasses.replace(small.optimizer, schedule="wsd")
    return dataclasses.replace(small, optimizer=optimizer, save_every=100, keep=1)


@pytest.fixture(scope="module")
def finished(wsd: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    assert loop.train(wsd, run_dir, ONE)
    return run_dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    return dataclasses.replace(config, steps=steps)


def records(run_dir: Path) -> list[dict]:
    logged = read_metrics(run_dir / METRICS)
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in logged]


def test_the_checkpoint_before_the_decay_is_kept(wsd, finished):
    assert decay_start(wsd.optimizer, wsd.steps) == 10
    assert store.all_steps(finished) == [10, 12]
    rates = [record["learning_rate"] for record in records(finished)]
    assert rates[-1] < rates[-2] == max(rates)


def test_a_finished_run_is_given_more_steps(wsd, run_dir, finished, tmp_path, capsys):
    """It becomes the run that had as many from the start, bit for bit; the model that it had
    become is kept, with its metrics."""
    longer, ended = with_steps(wsd, 20), records(run_dir)
    assert loop.train(longer, run_dir, ONE)
    shown = capsys.readouterr().out
    assert f"{run_dir} goes on from step 10, before its learning rate began to fall" in shown
    assert f"to step 12, is kept as {run_dir}/decayed-12" in shown
    assert "goes on after step 10 with changed steps: 12 -> 20" in shown
    assert store.all_steps(run_dir) == [10, 16, 20]  # the best, before its decay, the last
    assert loop.train(longer, tmp_path / "whole", ONE)
    assert records(run_dir) == records(tmp_path / "whole")
    grown, whole = (run_steps.restore(where, 20) for where in (run_dir, tmp_path / "whole"))
    for name, array in whole.params.items():
        np.testing.assert_array_equal(grown.params[name], array, err_msg=name)
    assert grown.data_state == whole.data_state
    kept = run_dir / "decayed-12"
    assert records(kept) == ended
    assert json.loads((kept / "config.json").read_text())["train"]["steps"] == 12
    one, other = (rg.load(where) for where in (kept, finished))
    np.testing.assert_array_equal(one.score("ten green"), other.score("ten green"))


def test_killed_in_between_it_goes_on_either_way(wsd, run_dir, monkeypatch):
    """The decayed steps are gone already, and the config says nothing of it yet."""
    with monkeypatch.context() as patch:
        patch.setattr("training.run_folder.write_config", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.train(with_steps(wsd, 20), run_dir, ONE)
    assert store.all_steps(run_dir) == [10]
    assert loop.train(wsd, run_dir, ONE)
    assert store.all_steps(run_dir) == [10, 12]


def test_a_second_decay_at_the_same_step_is_kept_beside_the_first(tmp_path):
    for _ in range(2):
        for step in (90, 100):
            (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        other_steps._set_aside(tmp_path, (90, 100))
    for name in ("decayed-100", "decayed-100-2"):
        assert {path.name for path in (tmp_path / name / "checkpoints").iterdir()} == {"90", "100"}


@pytest.mark.parametrize("done", range(4))
def test_killed_among_the_steps_it_is_undone(tmp_path, monkeypatch, done):
    """After so many of the renames: of three steps, then of the folder."""
    steps, rename, calls = (80, 90, 100), Path.rename, []

    def rename_or_die(self: Path, target: Path) -> Path:
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(target)
        return rename(self, target)

    for step in (70, *steps):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_or_die)
        with pytest.raises(KeyboardInterrupt):
            other_steps._set_aside(tmp_path, steps)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4 - done
    other_steps.undo_unfinished(tmp_path)
    other_steps._set_aside(tmp_path, steps)
    for kept, there in ((tmp_path, (70,)), (tmp_path / "decayed-100", steps)):
        assert sorted(int(path.name) for path in (kept / "checkpoints").iterdir()) == [*there]
    assert [path.name for path in tmp_path.glob("decayed*")] == ["decayed-100"]


def test_a_run_begins_with_undoing(wsd, run_dir):
    unfinished = run_dir / other_steps.UNFINISHED / "checkpoints"
    unfinished.mkdir(parents=True)
    (run_dir / "checkpoints" / "12").rename(unfinished / "12")
    assert run.open_run(run_dir, wsd) == 12
    assert not unfinished.parent.exists()


def on_disk(run_dir: Path, saved: TrainConfig, steps: int, *there: int) -> int:
    return other_steps.step_to_go_on_from(run_dir, saved, with_steps(saved, steps), there)


def test_where_it_goes_on(wsd):
    """Of 100 steps the learning rate falls after 80; of 200 after 160; of 90 after 72."""
    saved, where = with_steps(wsd, 100), Path("runs/x")
    assert on_disk(where, saved, 200, 40, 60) == 60
    assert on_disk(where, saved, 200, 40, 80, 100) == 80
    assert on_disk(where, saved, 90, 40, 72) == 72
    assert on_disk(where, saved, 90) == 0  # nothing was saved yet
    with pytest.raises(
        UserError, match=r"begun to fall at step 72, .* at step 80; .* given are 100"
    ):
        on_disk(where, saved, 90, 40, 80)
    falls = dataclasses.replace(wsd.optimizer, decay_fraction=1.0)
    with pytest.raises(UserError, match=r"falls from the first step on, .* keep its 100"):
        on_disk(where, with_steps(dataclasses.replace(wsd, optimizer=falls), 100), 90, 40, 80)
    with pytest.raises(UserError, match=r"fell from step 80 on, and no .* \(its steps are 90, 100"):
        on_disk(where, saved, 200, 90, 100)


def test_a_cosine_is_refused_with_the_reason(small, wsd):
    with pytest.raises(UserError, match=r"steps: 12 -> 20: with optimizer\.schedule=cosine .* 12;"):
        on_disk(Path("runs/x"), small, 20, 8)
    assert on_disk(Path("runs/x"), small, 20) == 0
    assert decay_start(small.optimizer, 12) is None


def test_a_pruning_schedule_hangs_on_the_steps(wsd):
    pruned = dataclasses.replace(wsd, prune=PruneConfig(penalty=0.2))
    with pytest.raises(
        UserError, match=r"steps: 12 -> 20: the prune\.penalty of every step .* 12;"
    ):
        on_disk(Path("runs/x"), pruned, 20, 8)


def test_nothing_is_moved_for_a_run_that_is_refused(small, wsd, run_dir):
    other = dataclasses.replace(with_steps(wsd, 20), seed=1)
    with pytest.raises(UserError, match=r"batch_size: 4 -> 8; seed: 0 -> 1\. Ask"):
        loop.train(dataclasses.replace(other, batch_size=8), run_dir, ONE)
    with (
        locked(run_dir),
        pytest.raises(UserError, match="is being written by another process"),
    ):
        loop.train(with_steps(wsd, 20), run_dir, ONE)
    assert store.all_steps(run_dir) == [10, 12]
    assert not (run_dir / "decayed-12").exists()
