# SPDX-License-Identifier: Apache-2.0
"""A run on the host's environments logs the paper's numbers, and goes on where it was killed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.recipes.experiment import Cell
from training.recipes.rl import ppo_host
from training.recipes.rl.host_environments import gymnasium_environments
from training.recipes.rl.ppo import PPO, PPOArm, PPOChoices
from training.recipes.rl.ppo_host import HostRun, train_host
from training.recipes.vision.mlp import MLPConfig

pytest.importorskip("mujoco", reason="mujoco is not installed here")
NETWORK = MLPConfig(widths=(8,))
ARM = PPOArm(
    choices=PPOChoices(
        actor=NETWORK,
        critic=NETWORK,
        environments=2,
        rollout=16,
        minibatch=16,
        epochs=2,
        truncation_ends=False,
    ),
    environment="Hopper-v5",
    steps=32 * 6,
    measured=3,
)
CHANGES = ("steps_per_second",)


def without_time(record):
    return {name: value for name, value in record.items() if name not in CHANGES}


def test_killed_and_started_again_no_step_is_lost(tmp_path, monkeypatch):
    ((_, whole),) = train_host([Cell("x", ARM, 0)], tmp_path / "whole")
    assert whole["steps"] == 192
    assert whole["measured"]["pca_rank"][0] > 0
    monkeypatch.setattr(ppo_host.Saved.__init__, "__kwdefaults__", {"every": 0.0})
    records = HostRun(ARM, 0).records(tmp_path / "killed")
    first = [next(records), next(records)]
    next(records)  # the second one is kept before the third begins
    del records  # killed
    again = list(HostRun(ARM, 0).records(tmp_path / "killed"))
    assert [without_time(one) for one in again[:2]] == [without_time(one) for one in first]
    for name, values in whole["measured"].items():
        if name not in CHANGES and values[2] is not None:
            assert again[2][name] == pytest.approx(values[2], rel=1e-3), name


def test_another_arm_does_not_go_on_from_it(tmp_path):
    other = dataclasses.replace(ARM, steps=64, measured=1)
    (record,) = HostRun(other, 0).records(tmp_path)
    assert record["kl"] >= 0


def test_a_run_begins_with_a_state_and_is_held_by_the_number_of_the_update(tmp_path):
    still = dataclasses.replace(ARM, choices=dataclasses.replace(ARM.choices, learning_rate=0.0))
    with gymnasium_environments("Hopper-v5", 1, seed=0) as one:
        begun = PPO(still.choices, one.observation_shape, one.policy).start(jax.random.key(7))
    seen = []

    def at_measurement(agent, state, number):
        seen.append(state)
        return {}

    def held(number):
        return lambda actor, observation_M, key: number.astype(jnp.float32)

    run = HostRun(still, 0, begun=begun, held=held, at_measurement=at_measurement)
    records = list(run.records(tmp_path))
    # six updates, two before each measurement
    assert [record["held_loss"] for record in records] == [0.5, 2.5, 4.5]
    for x, y in zip(jax.tree.leaves(seen[-1].actor), jax.tree.leaves(begun.actor), strict=True):
        np.testing.assert_array_equal(x, y)


def test_another_identity_does_not_go_on_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_host.Saved.__init__, "__kwdefaults__", {"every": 0.0})
    records = HostRun(ARM, 0, identity="held").records(tmp_path)
    assert len([next(records), next(records)]) == 2  # the first one is kept before the second
    del records
    assert len(list(tmp_path.iterdir())) == 1
    next(HostRun(ARM, 0, identity="free").records(tmp_path))
    (kept,) = tmp_path.iterdir()
    next(HostRun(ARM, 0).records(tmp_path))
    assert [kept] == list(tmp_path.iterdir())
