# SPDX-License-Identifier: Apache-2.0
"""Runs of points: what they begin with, that they learn, and that a killed one goes on."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests.training.recipes.forgetting.point_tasks import PointTask
from tests.training.recipes.forgetting.test_robot_teacher import ARM
from training.recipes.experiment import Cell
from training.recipes.forgetting import robot_train
from training.recipes.forgetting.robot_teacher import taught, teacher_file
from training.recipes.forgetting.robot_train import Run, records, train_robots
from training.recipes.forgetting.robots import RoboticSequence

SMALL = dataclasses.replace(ARM, steps=240, measured=2, starts=4, learning_rate=3e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def run_of(arm, folder) -> Run:
    teacher = taught(arm, 0, folder, make=PointTask)
    tasks = [PointTask(name) for name in arm.stages]
    sequence = RoboticSequence(tasks, seed=0, limit=arm.limit, scale=teacher.scale)
    sequence.begin()
    return Run(arm, 0, sequence, teacher)


def test_replay_keeps_the_teachers_rows(folder):
    arm = dataclasses.replace(SMALL, method="EM", begin=10_000)  # no updates
    run = run_of(arm, folder)
    run.trained(1)
    run.trained(2)
    rows = run.state.buffer.rows
    np.testing.assert_array_equal(rows.observation[:200], run.teacher.kept.observation)
    assert int(run.state.buffer.full) == 400
    assert int(run.state.buffer.place) == 200 + 240 - 200  # its own 200 rows are full once
    assert 0 in np.asarray(rows.observation[200:, 0, 0, 0])  # the teacher's have no stage 0


def test_a_killed_run_goes_on_and_what_it_began_with(folder, tmp_path, monkeypatch):
    arm = dataclasses.replace(SMALL, method="BC", weight=1.0)
    taught(arm, 0, folder, make=PointTask)
    shutil.copy(teacher_file(arm, 0, folder).path, tmp_path)
    whole = list(records(arm, 0, tmp_path, make=PointTask))
    assert len(whole) == 3
    assert whole[0]["success"][1:] == [1.0, 1.0]  # the teacher knows the last two
    assert whole[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert whole[0]["solved"] is None
    assert whole[2]["episodes"] > 0
    assert 0 < whole[2]["kl"] < 1
    assert whole[2]["held"] > 0
    monkeypatch.setattr(robot_train.Saved.__init__, "__kwdefaults__", {"every": 0.0})
    killed = records(arm, 0, tmp_path, make=PointTask)
    for _ in range(2):  # the first is kept before the second begins
        next(killed)
    del killed
    assert len(list(tmp_path.iterdir())) == 2  # the teacher, and the run
    again = list(records(arm, 0, tmp_path, make=PointTask))
    for one, other in zip(whole, again, strict=True):
        assert {**one, "steps_per_second": 0} == {**other, "steps_per_second": 0}


def test_from_scratch_a_stage_is_learned_and_nothing_is_left_behind(folder, capsys):
    arm = dataclasses.replace(SMALL, method="scratch", steps=900)
    assert [path.name for path in folder.iterdir()] != []  # the teacher
    ((cell, curves),) = train_robots([Cell("1 new/scratch", arm, 0)], folder, make=PointTask)
    assert cell.seed == 0
    assert curves["kl"][0] > 0.5  # it is no copy
    assert curves["held"] == [0, 0, 0]
    assert np.mean(curves["success"][0]) < 0.5 < curves["success"][-1][0]
    assert "2 of 2  success" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
