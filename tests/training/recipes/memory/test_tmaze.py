# SPDX-License-Identifier: Apache-2.0
"""A walk through the maze, turns too early, and the limit of time."""

import jax
import jax.numpy as jnp
import pytest

from recurrentgemma.errors import UserError
from training.recipes.memory.tmaze import TMaze

MAZE = TMaze(2)


def walk(actions, *, seed=0):
    """(cue, what each action gave)."""
    observation, state = MAZE.reset(jax.random.key(seed))
    assert observation[0, 0, 1:].tolist() == [1, 0]
    seen = []
    for action in actions:
        state, stepped = jax.jit(MAZE.step)(jax.random.key(1), state, jnp.int32(action))
        seen.append(stepped)
    return int(observation[0, 0, 0]), seen


def test_the_right_turn():
    cue, seen = walk([0, 0])
    turn = {-1: 1, 1: 2}[cue]
    assert [one.observation[0, 0].tolist() for one in seen] == [[0, 1, 0], [0, 0, 1]]
    assert [float(one.reward) for one in seen] == [0, 0]
    for action, reward in ((turn, 1), (3 - turn, -1)):
        _, (*_, last) = walk([0, 0, action])
        assert float(last.reward) == reward
        assert bool(last.terminated)
        assert abs(float(last.observation[0, 0, 0])) == 1  # a new maze, with its cue


def test_turns_in_the_corridor_and_time():
    _, seen = walk([1, 2, 0, 0, 0, 1])
    assert [float(one.reward) for one in seen[:5]] == [-0.5, -0.5, 0, 0, -0.5]
    assert not any(bool(one.truncated) for one in seen[:5])
    assert abs(float(seen[5].reward)) == 1
    _, seen = walk([0] * 6)
    assert bool(seen[5].truncated)
    assert not bool(seen[5].terminated)


def test_cues_differ():
    assert {walk([], seed=seed)[0] for seed in range(8)} == {-1, 1}


def test_no_corridor():
    with pytest.raises(UserError, match="length=0: expected a corridor"):
        TMaze(0)
