# SPDX-License-Identifier: Apache-2.0
"""A cell from a kept archive to its curves, on the emulator."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.dynamic.retention import Weight
from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell
from training.recipes.forgetting.montezuma import Emulator, Game
from training.recipes.forgetting.montezuma_rooms import Demonstrations
from training.recipes.forgetting.montezuma_run import (
    POLICY,
    SHAPE,
    MontezumaArm,
    Teaching,
    measure_in,
    retention,
)
from training.recipes.rl.curiosity import LEAKY, CuriosityChoices
from training.recipes.rl.curious_ppo import CuriousChoices, CuriousPPO
from training.recipes.rl.host_loop import Schedule
from training.recipes.rl.networks import ConvConfig, ConvLayer

NETWORK = ConvConfig(layers=(ConvLayer(4, 8, 8),), widths=(8,), products=False)
RND = dataclasses.replace(NETWORK, widths=(), style=LEAKY)
ARM = MontezumaArm(
    game=Game(limit=50),
    choices=CuriousChoices(
        network=NETWORK,
        curiosity=CuriosityChoices(target=RND, predictor=RND, outputs=4),
        environments=2,
        rollout=8,
        epochs=2,
        minibatches=2,
    ),
    schedule=Schedule(environments=2, rollout=8, steps=64, measured=2),
    searched=10,
    search_seed=0,
    first_far=2,
    copied=30,
    critic_updates=1,
    warmed=9,
    tries=2,
    tried_steps=5,
)


@pytest.fixture
def folder(tmp_path):
    """With an archive of two rooms: the second one is the first again, under another number."""
    pytest.importorskip("ale_py", reason="ale-py is not installed here: griffin-lm[rl]")
    emulator, rows = Emulator(0.0, 0), []
    emulator.begin()
    for number, room in enumerate((1, 2, 2)):
        at = [*emulator.situation]
        at[0] = room
        rows.append([[emulator.kept(), at, number - 1], number - 1, [3] * 12 * (number > 0), True])
        for _ in range(12):
            emulator.step(3)
    (tmp_path / "archive-10-0.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.slow
def test_cells_share_a_copy(folder):
    held = dataclasses.replace(ARM, method="bc", weight=Weight(start=1.0))
    scratch = dataclasses.replace(ARM, begins="scratch", critic_updates=0)
    cells = [Cell("bc", held, 0), Cell("new", scratch, 0)]
    numbers = {cell.arm: of for cell, of in measure_in(cells, folder)}
    assert numbers["bc"]["far"] == [2]
    assert numbers["bc"]["stored"] == 12
    assert numbers["bc"]["before"]["likelihood"] > numbers["new"]["before"]["likelihood"]
    for arm, of_arm in numbers.items():
        names = ["loss", "novelty", "likelihood", "room_success", "far", "rooms"]
        names += ["held_loss"] if arm == "bc" else []
        curves = [of_arm["curves"][name] for name in names]
        assert np.isfinite(np.array(curves, float)).all()
        assert {len(curve) for curve in curves} == {2}
    assert [path.name for path in folder.iterdir()] == ["archive-10-0.json"]


@pytest.mark.parametrize("method", ["bc", "ks", "ewc"])
def test_a_copy_is_held_to_nothing_but_itself(method):
    agent, key = CuriousPPO(ARM.choices, SHAPE, POLICY), jax.random.key(0)
    teacher, other = (agent.network.init(jax.random.fold_in(key, one))[0] for one in (0, 1))
    pictures_N = np.random.default_rng(0).integers(0, 255, (6, *SHAPE)).astype(np.uint8)
    stored = Demonstrations(pictures_N, np.zeros(6, np.int32), np.zeros(6, np.int32))
    held, beside = retention(
        *(agent, Teaching([2], [], stored, teacher), method, Weight(start=2.0, decay=0.5), 0)
    )
    assert held is not None
    assert beside is not None
    of = [
        float(held(params, jnp.asarray(pictures_N), beside(0), jnp.int32(number)))
        for params, number in ((teacher, 0), (other, 0), (other, 1))
    ]
    assert of[0] == pytest.approx(0, abs=1e-6)
    assert of[1] > 1e-4
    assert of[2] == pytest.approx(of[1] / 2, rel=1e-4)


def test_far_that_was_not_reached(folder):
    with pytest.raises(UserError, match="knows no trail on from room number 5"):
        list(measure_in([Cell("a", dataclasses.replace(ARM, first_far=5), 0)], folder))


def test_arms_that_are_none():
    with pytest.raises(UserError, match="without a copy to be held to"):
        dataclasses.replace(ARM, begins="scratch", method="ks")
    with pytest.raises(UserError, match="the schedule has 2 environments"):
        dataclasses.replace(ARM, choices=CuriousChoices())
