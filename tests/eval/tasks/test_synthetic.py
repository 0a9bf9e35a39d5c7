# SPDX-License-Identifier: Apache-2.0
"""A study that was stopped goes on where it was, with the numbers of one that was not."""

import contextlib
import dataclasses
from pathlib import Path

import pytest

from eval.progress_bar import progress_bar
from eval.results import open_results
from eval.tasks import synthetic
from eval.tasks.synthetic import Cell, check_lengths, default_lengths, run_cell
from eval.tasks.synthetic_task import TASKS
from eval.tasks.synthetic_training import SyntheticTraining, TrainingChoices
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import load

TASK = dataclasses.replace(TASKS["induction_heads"], length=8, window=4)
CHOICES = TrainingChoices(steps=6, tokens_per_step=32, shortest=8, growing=0.0, block=2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch):
    config = synthetic.study_config

    def smaller(model, task):
        return dataclasses.replace(config(model, task), num_layers=1, width=16, mlp_width=16)

    monkeypatch.setattr(synthetic, "study_config", smaller)
    monkeypatch.setattr(synthetic, "KEPT_EVERY", -1.0)


def run(folder: Path | None) -> Cell:
    with (
        open_results(folder, kind="synthetic", settings={}) as results,
        progress_bar("a test") as bar,
    ):
        return run_cell(
            *("hawk", 3, TASK, CHOICES),
            lengths=[8, 20],
            sequences=5,
            results=results,
            bar=bar,
            before=0,
        )


def test_stopped_and_whole_studies_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = run(None)
    assert whole.steps == [2, 4, 6]
    assert whole.solved.keys() == {"8", "20"}
    advance, calls = SyntheticTraining.advance, []

    def stopped(self, state, step):
        assert int(state.step) == step
        calls.append(step)
        if calls == [0, 2]:
            raise KeyboardInterrupt
        return advance(self, state, step)

    monkeypatch.setattr(SyntheticTraining, "advance", stopped)
    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path)
    gone_on = run(tmp_path)
    assert calls == [0, 2, 2, 4], "it went on behind the step that was kept"
    same = {field.name: getattr(whole, field.name) for field in dataclasses.fields(Cell)}
    assert dataclasses.replace(gone_on, seconds=whole.seconds) == Cell(**same)
    assert run(tmp_path) == gone_on
    assert len(calls) == 4, "a finished cell is not trained again"
    lm = load(tmp_path / "models" / "hawk-seed3")
    assert lm.config.block_types == ("recurrent",)


def test_lengths():
    assert default_lengths(TASKS["induction_heads"])[:3] == (64, 128, 256)
    assert default_lengths(TASKS["induction_heads"])[-1] == 256 * 256
    assert default_lengths(TASKS["selective_copying"])[::8] == (256, 65_536)
    with pytest.raises(UserError, match="lengths=31: expected at least 32"):
        check_lengths(TASKS["selective_copying"], [64, 31])
