# SPDX-License-Identifier: Apache-2.0
"""Mazes and ways against SciPy's shortest paths, demonstrations, and what is held out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path

from recurrentgemma.errors import UserError
from training.recipes.modular.goals import FAR, Goals, distances, maze, neighbours, quadrants

FAMILY = Goals(size=5, mazes=2, objects=3, distractors=2, near=2, longest=9, shots=2, queries=2)


@pytest.fixture(scope="module")
def prepared():
    return FAMILY.prepare(0)


@pytest.fixture(scope="module")
def draw(prepared):
    """Code -> a task."""
    world = FAMILY.world(jax.tree.map(jnp.asarray, prepared["fixed"]), jax.random.key(0))
    program = jax.jit(lambda code: FAMILY.task(world, code, jax.random.key(3), 2))
    return lambda *code: program(jnp.asarray(code, jnp.int32))


def edges(wall_G: np.ndarray, size: int) -> np.ndarray:
    graph = np.zeros((size**2, size**2))
    after_G4 = np.asarray(neighbours(jnp.asarray(wall_G), size))
    for cell in np.flatnonzero(~wall_G):
        for after in after_G4[cell]:
            graph[cell, after] = after != cell
    return graph


def test_ways_are_the_shortest():
    wall_G = maze(7, np.random.default_rng(1)).reshape(-1)
    wall_G[np.flatnonzero(wall_G)[:4]] = False  # some cells have two ways, now
    ours = np.asarray(jax.jit(lambda wall_G: distances(wall_G, 7))(jnp.asarray(wall_G)))
    theirs = shortest_path(edges(wall_G, 7))
    free = ~wall_G
    np.testing.assert_array_equal(ours[free][:, free], theirs[free][:, free])
    assert (ours[wall_G] == FAR).all()


def test_a_maze_has_one_way_between_two_cells():
    wall_G = maze(7, np.random.default_rng(0)).reshape(-1)
    graph = edges(wall_G, 7)
    assert (graph == graph.T).all()
    assert graph.sum() / 2 == (~wall_G).sum() - 1, "a tree"
    assert np.isfinite(shortest_path(graph)[~wall_G][:, ~wall_G]).all()


def test_quadrants_are_a_partition():
    assert (quadrants(5).sum(0) == 1).all()
    assert quadrants(5)[0].sum() == 9


def test_demonstrations(prepared, draw):
    task = draw(2, 1, 1, 2)
    for data in (task.support, task.query):
        pictures = np.asarray(data.x_PI).reshape(2, 10, 25, 5)
        actions, going = (np.asarray(one).reshape(2, 10, -1) for one in (data.y_PO, data.weight_P))
        for episode in range(2):
            steps = int(going[episode].sum())
            agent = pictures[episode, :, :, -1].argmax(-1)
            action = actions[episode].argmax(-1)
            goal = agent[steps - 1]
            assert quadrants(5)[2][goal]
            assert pictures[episode, 0, goal, 2] == 1, "the kind of object"
            assert pictures[episode, 0, :, :3].sum() == 3, "goal and distractors"
            distance = prepared["fixed"]["distance_ZGG"][1][goal]
            np.testing.assert_array_equal(distance[agent[:steps]], np.arange(steps - 1, -1, -1))
            assert 2 <= steps - 1 <= 9
            assert (action[steps - 1 :] == 4 + 1).all(), "the interaction, at the goal"
            assert (action[: steps - 1] < 4).all()
    np.testing.assert_array_equal(task.code, [0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 1])


def test_scores(draw):
    data = draw(0, 0, 0, 0).query
    perfect = 50.0 * data.y_PO
    assert FAMILY.scores(perfect, data) == {"accuracy": 1.0, "episodes": 1.0}
    assert float(FAMILY.loss(perfect, data)) < 1e-5
    once = perfect.at[0].set(jnp.roll(perfect[0], 1))
    scores = FAMILY.scores(once, data)
    assert float(scores["episodes"]) == 0.5
    assert float(scores["accuracy"]) == pytest.approx(1 - 1 / float(data.weight_P.sum()))


@pytest.mark.parametrize("kind", ["random", "disconnected", "non-compositional"])
def test_what_is_held_out(kind):
    family = Goals(kind=kind)
    codes = family.split(0)
    train, out = codes["train"], codes["out"]
    assert len(train) + len(out) == 200
    assert not set(map(tuple, train)) & set(map(tuple, out))
    seen = [len(np.unique(values)) for values in train.T]
    assert seen == ([3, 2, 5, 5] if kind == "non-compositional" else [4, 2, 5, 5])
    shares = (train[:, None] == train[None]).any(-1)
    pieces = len(np.unique(shortest_path(shares.astype(float)) == np.inf, axis=0))
    assert pieces == (2 if kind == "disconnected" else 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "connected"}, "'connected' of goals: expected random, disconnected or"),
        ({"size": 6}, "size 6: expected an odd number"),
        ({"near": 9, "longest": 3}, "near 9, longest 3"),
        ({"mazes": 1}, "mazes 1.*at least 2"),
        ({"distractors": 40}, "40 distractors: expected 0 to 34"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=message):
        Goals(**options)


def test_goals_that_no_maze_has():
    with pytest.raises(UserError, match="100 mazes of size 5 do not give 2 with a way of 24 to 24"):
        Goals(size=5, mazes=2, distractors=0, near=24, longest=24).prepare(0)
