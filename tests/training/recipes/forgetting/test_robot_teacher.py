# SPDX-License-Identifier: Apache-2.0
"""A teacher of points: it solves what it was taught and only that, it is read again as it was made,
and what holds an actor to it is nothing where they are the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.recipes.forgetting.point_tasks import NAMES, PointTask
from training.recipes.forgetting.robot_teacher import (
    RobotArm,
    Teaching,
    divergence,
    fisher_of,
    holding,
    taught,
    teacher_file,
)
from training.recipes.rl.distributions import TanhNormal
from training.recipes.rl.sac import SAC

ARM = RobotArm(
    stages=NAMES[:3],
    new=1,
    limit=20,
    widths=(32, 32),
    batch=32,
    buffer=400,
    begin=100,
    teaching=Teaching(
        rounds=2, episodes=10, updates=400, batch=64, kept=200, critic=100, fisher=20
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def teacher(folder):
    return taught(ARM, 0, folder, make=PointTask)


@pytest.fixture(scope="module")
def agent():
    return SAC(ARM.choices(), (1, 1, 4), TanhNormal(low=(-1.0,), high=(1.0,)))


def test_it_solves_far_and_keeps_what_it_met_there(teacher):
    stage_N = np.asarray(teacher.kept.observation[:, 0, 0, 0])
    assert set(stage_N.tolist()) == {1, 2}
    ends = np.asarray(teacher.kept.terminated)
    assert ends.sum() > 10
    # an end without success has a task's reward, at most 10
    assert (np.asarray(teacher.kept.reward)[ends] > 10).mean() > 0.9
    assert len(teacher.kept.reward) == len(teacher.outputs_NO) == 200


def test_it_is_read_as_it_was_made(teacher, folder, monkeypatch):
    assert teacher_file(ARM, 0, folder).path.is_file()
    monkeypatch.setattr("training.recipes.forgetting.robot_teacher.clone", None)
    held = dataclasses.replace(ARM, method="EWC", weight=3.0, steps=7)  # of the same lesson
    again = taught(held, 0, folder, make=PointTask)
    for one, other in zip(jax.tree.leaves(teacher), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(TypeError):  # another seed's is made, not read
        taught(ARM, 1, folder, make=PointTask)


def test_what_holds_an_actor(teacher, agent):
    key = jax.random.key(0)
    assert holding(ARM, agent, teacher) is None
    assert holding(dataclasses.replace(ARM, method="EM"), agent, teacher) is None
    moved = jax.tree.map(lambda x: x + 0.05, teacher.actor)
    for method in ("EWC", "BC"):
        beside = holding(dataclasses.replace(ARM, method=method, weight=1.0), agent, teacher)
        double = holding(dataclasses.replace(ARM, method=method, weight=2.0), agent, teacher)
        assert beside is not None
        assert double is not None
        assert float(beside(teacher.actor, key)) == pytest.approx(0, abs=1e-5)
        assert float(beside(moved, key)) > 1e-3
        assert float(double(moved, key)) == pytest.approx(2 * float(beside(moved, key)), rel=1e-4)
    heads = {**teacher.actor, "head": jax.tree.map(lambda x: x + 1, teacher.actor["head"])}
    ewc = holding(dataclasses.replace(ARM, method="EWC", weight=1.0), agent, teacher)
    assert ewc is not None
    assert float(ewc(heads, key)) == 0  # heads are free
    rows_M = jnp.arange(8)
    kl_M = divergence(agent, teacher, moved, rows_M)
    assert kl_M.shape == (8,)
    assert float(kl_M.min()) > 0


def test_the_fisher_is_that_of_the_trunk(teacher, agent):
    fisher = fisher_of(ARM, agent, teacher)
    assert "head" not in fisher
    assert jax.tree.map(jnp.shape, fisher) == jax.tree.map(
        jnp.shape, {name: layer for name, layer in teacher.actor.items() if name != "head"}
    )
    least = min(float(x.min()) for x in jax.tree.leaves(fisher))
    most = max(float(x.max()) for x in jax.tree.leaves(fisher))
    assert least >= 0.99e-5
    assert most > 0.01


def test_the_arms_numbers():
    assert ARM.far == (1, 2)
    assert (ARM.protected, ARM.choices().begin) == (0, 100)
    replayed = dataclasses.replace(ARM, method="EM")
    assert (replayed.protected, replayed.choices().begin) == (200, 300)
    assert ARM.lesson() == replayed.lesson()
    assert ARM.lesson() != dataclasses.replace(ARM, new=2).lesson()
