# SPDX-License-Identifier: Apache-2.0
"""Action values against a search of all action sequences, and what a task shows of a room."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.modular.preferences import (
    STOP,
    Preferences,
    room,
    transitions,
    value_iteration,
)
from training.recipes.modular.support import Support

SUPPORT = Support(kind="random", modules=4, hot=2)
FAMILY = Preferences(support=SUPPORT, objects=2, colours=3, shots=1, queries=2, horizon=4)


def brute_force(next_CA, cells, worths, start, actions, discount):
    """What a sequence of actions earns; `stop` ends it."""
    cell, left, earned, weight = start, set(range(len(cells))), 0.0, 1.0
    for action in actions:
        if action == STOP:
            break
        cell = int(next_CA[cell, action])
        for number in sorted(left):
            if cells[number] == cell:
                earned += weight * worths[number]
                left.remove(number)
        weight *= discount
    return earned


def test_value_iteration_is_the_best_of_all_sequences():
    next_CA = room().next_CA
    cells, worths = [1, 6], [0.7, -0.4]
    moves = transitions(jnp.asarray(next_CA), jnp.asarray(cells, jnp.int32), jnp.asarray(worths))
    q = np.asarray(value_iteration(moves, 0.9, 4)).reshape(len(next_CA), 4, 5)
    for start in range(len(next_CA)):
        if start in cells:
            continue
        for first in range(5):
            best = max(
                brute_force(next_CA, cells, worths, start, (first, *others), 0.9)
                for others in itertools.product(range(5), repeat=3)
            )
            assert q[start, 3, first] == pytest.approx(best, abs=1e-5)


def test_walls_hold():
    walls, free_C2, next_CA = room()
    assert len(free_C2) == 19
    for cell, (row, column) in enumerate(free_C2):
        for action, (down, right) in enumerate(((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))):
            wall = walls[row + down, column + right]
            there = free_C2[next_CA[cell, action]].tolist()
            assert there == ([row, column] if wall else [row + down, column + right])


@pytest.fixture(scope="module")
def task():
    world = FAMILY.world({}, jax.random.key(0))
    codes = jnp.asarray(FAMILY.prepare(0)["codes"]["out"])
    return jax.jit(lambda key: FAMILY.task(world, codes[0], key, 1))(jax.random.key(4)), codes[0]


def test_a_task(task):
    drawn, code = task
    assert drawn.support.x_PI.shape == (4, FAMILY.inputs)
    assert drawn.query.y_PO.shape == (8, 5)
    weights = np.asarray(drawn.code)
    assert ((weights > 0) == (np.asarray(code) > 0)).all()
    pictures = np.asarray(drawn.query.x_PI).reshape(2, 4, 7, 7, 5)
    assert (pictures[..., 3].sum((2, 3)) == 1).all(), "one agent"
    assert (pictures[:, 0, ..., :3].sum((1, 2, 3)) == 2).all(), "all objects at the start"
    assert (np.diff(pictures[..., :3].sum((2, 3, 4)), axis=1) <= 0).all(), "none comes back"
    np.testing.assert_array_equal(pictures[0, 0, ..., 4], room().walls)


def test_points_after_the_end_do_not_count(task):
    drawn = task[0]
    going = np.asarray(drawn.query.weight_P).reshape(2, 4)
    stopped = np.asarray(drawn.query.y_PO).reshape(2, 4, 5).argmax(-1) == STOP
    expected = np.cumprod(1 - np.pad(stopped[:, :-1], ((0, 0), (1, 0))).astype(float), 1)
    np.testing.assert_array_equal(going, expected)
    perfect = drawn.query.y_PO
    wrong = jnp.where(drawn.query.weight_P[:, None] > 0, perfect, 100.0)
    assert float(FAMILY.loss(wrong, drawn.query)) == 0.0
    assert float(FAMILY.scores(wrong, drawn.query)["accuracy"]) == pytest.approx(1.0)
    assert float(FAMILY.scores(-perfect, drawn.query)["accuracy"]) < 1.0


def test_bad_input():
    with pytest.raises(UserError, match="9 objects: expected 1 to 8"):
        Preferences(support=SUPPORT, objects=9)
    with pytest.raises(UserError, match="2 layers of modules: expected 1"):
        Preferences(support=Support(kind="random", modules=4, hot=2, layers=2))
    with pytest.raises(UserError, match="horizon 0"):
        Preferences(support=SUPPORT, horizon=0)
    with pytest.raises(UserError, match="leaves module"):
        Preferences(support=Support(kind="random", modules=4, hot=1)).prepare(0)
