# SPDX-License-Identifier: Apache-2.0
"""Training of a learner: over devices as on one, seeds alike in any company, decoding of codes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.experiment import Cell
from training.recipes.modular.few_shot import FewShotArm, Run, decoded, train_arms
from training.recipes.modular.hypernetworks import Anil
from training.recipes.modular.hyperteacher import HyperTeacher
from training.recipes.modular.method import Inner, task_mesh
from training.recipes.modular.preferences import Preferences
from training.recipes.modular.support import Support

FAMILY = HyperTeacher(
    support=Support(kind="random", modules=3, hot=2, layers=2),
    inputs=3,
    width=4,
    outputs=2,
    shots=8,
    queries=8,
    moments=16,
    hots=(3,),
)
ARM = FewShotArm(
    family=FAMILY,
    learner=Anil(width=8, depth=1),
    inner=Inner(steps=2, learning_rate=0.1),
    outer_rate=0.01,
    clip=1.0,
    outer_decay=0.0,
    steps=4,
    tasks=8,
    measured=2,
    tested=8,
)


@pytest.fixture(scope="module")
def numbers():
    """Of two seeds, side by side, over the eight devices."""
    cells = [Cell("a", ARM, seed) for seed in (0, 1)]
    return {cell.seed: of_cell for cell, of_cell in train_arms(cells)}


def test_what_is_measured(numbers):
    tests = numbers[0]["tests"]
    assert set(tests) == {"in", "out", "K 3", "decoding"}
    assert set(tests["out"]) == {"accuracy", "loss"}
    assert len(numbers[0]["loss"]) == 2
    assert numbers[0] != numbers[1]


def test_one_device_trains_alike(numbers):
    """A seed alone, on one device, against two side by side on eight."""
    prepared = FAMILY.prepare(1)
    codes = jax.tree.map(jnp.asarray, prepared["codes"])
    run = Run(ARM)
    world, state = run.start({}, jnp.uint32(1))
    stretch = jax.jit(run.stretch)
    losses = []
    for _ in range(2):
        state, loss = stretch(world, codes["train"], state)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, numbers[1]["loss"], rtol=1e-4)


def test_tasks_lie_on_all_devices():
    run = Run(ARM, task_mesh(ARM.tasks))
    codes = jnp.asarray(FAMILY.prepare(0)["codes"]["train"])
    world, state = run.start({}, jnp.uint32(0))
    text = jax.jit(run.step).lower(world, codes, state).compile().as_text() or ""
    assert "num_partitions=8" in text
    assert "all-reduce" in text


@pytest.mark.slow
def test_the_loss_falls_and_fewer_shots_are_tested():
    family = dataclasses.replace(FAMILY, hots=())
    arm = dataclasses.replace(ARM, family=family, steps=200, test_shots=(2,), tested=64)
    ((_, numbers),) = train_arms([Cell("a", arm, 0)])
    assert numbers["loss"][-1] < numbers["loss"][0]
    assert set(numbers["tests"]) == {"in", "out", "2 shots", "decoding"}


def test_decoding_of_what_is_linear():
    code = normal(0, (30, 3))
    fast = code @ normal(1, (3, 50)) + 2.0
    assert float(decoded(fast[:20], code[:20], fast[20:], code[20:])) > 0.98
    noise = normal(2, (30, 50))
    assert float(decoded(noise[:20], code[:20], noise[20:], code[20:])) < 0.3


def test_bad_input():
    with pytest.raises(UserError, match="5 steps measured 2 times: not a multiple"):
        dataclasses.replace(ARM, steps=5)
    with pytest.raises(UserError, match=r"tasks 0.*expected at least 1"):
        dataclasses.replace(ARM, tasks=0)
    unseen = Preferences(support=Support(kind="random", modules=4, hot=1))
    with pytest.raises(UserError, match="leaves module"):
        next(train_arms([Cell("a", dataclasses.replace(ARM, family=unseen), 0)]))
