# SPDX-License-Identifier: Apache-2.0
"""Compositional goals of 2312.15001, section 4.3: imitate the way to an object in a maze.

A goal is a combination of four factors: the quadrant that the object lies in, what to do there, the
maze, and the kind of object. One demonstration of it is adapted to, and one with other places is
scored: which action comes next? Ways are exact: steps to the goal by value iteration from all cells
of a maze to all others, once for a seed. Mazes are perfect (one way between two cells), so an
optimal action is one.
Supports: random (some combinations are held out), disconnected (either half of a factor's values is
seen with the same half of the others), non-compositional (the last quadrant is never seen). The
paper has the first and the last.
Legend: C codes, F factors, Z mazes, G cells of a grid (row * size + column), T steps, P points,
O outputs.
"""

import dataclasses
import itertools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.modular.method import Data, Task

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
FAR = 1e6  # steps to what cannot be reached
QUADRANTS = 4
DRAWS = 100  # of mazes


class World(NamedTuple):
    """wall_ZG; distance_ZGG: steps to the first cell from the second."""

    wall_ZG: jax.Array
    distance_ZGG: jax.Array


def maze(size: int, random: np.random.Generator) -> np.ndarray:
    """Walls (True) of a perfect maze by a random walk that goes back; size is odd. [size, size]"""
    walls = np.ones((size, size), bool)
    way = [(0, 0)]
    walls[0, 0] = False
    while way:
        row, column = way[-1]
        nexts = [
            (row + 2 * down, column + 2 * right)
            for down, right in MOVES
            if 0 <= row + 2 * down < size and 0 <= column + 2 * right < size
        ]
        nexts = [place for place in nexts if walls[place]]
        if not nexts:
            way.pop()
            continue
        place = nexts[random.integers(len(nexts))]
        walls[place] = walls[(row + place[0]) // 2, (column + place[1]) // 2] = False
        way.append(place)
    return walls


def neighbours(wall_G: jax.Array, size: int) -> jax.Array:
    """Where each of the moves leads from each cell, [G, 4]; walls and borders hold."""
    cell_G = jnp.arange(size * size, dtype=jnp.int32)
    row_G, column_G = cell_G // size, cell_G % size
    to = []
    for down, right in MOVES:
        row, column = row_G + down, column_G + right
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        after = jnp.where(inside, row * size + column, cell_G)
        to.append(jnp.where(wall_G[after], cell_G, after))
    return jnp.stack(to, -1)


def distances(wall_G: jax.Array, size: int) -> jax.Array:
    """Steps to the first cell from the second, by value iteration to its fixed point, [G, G]."""
    to_G4 = neighbours(wall_G, size)
    cells = size * size
    own = jnp.eye(cells, dtype=bool) & ~wall_G[None] & ~wall_G[:, None]
    first_GG = jnp.where(own, 0.0, FAR)

    def backed(value_GG: jax.Array) -> jax.Array:
        on_way = jnp.minimum(value_GG, value_GG[:, to_G4].min(-1) + 1)
        return jnp.where(wall_G[None] | wall_G[:, None], FAR, jnp.minimum(on_way, FAR))

    def changed(carried: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(carried[0] != carried[1])

    def step(carried: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return carried[1], backed(carried[1])

    return jax.lax.while_loop(changed, step, (first_GG + 1, first_GG))[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goals:
    """near, longest: steps from start to goal, at least and at most; a demonstration has
    longest + 1 points. held_out: one goal in so many of a random split."""

    kind: Literal["random", "disconnected", "non-compositional"] = "random"
    size: int = 11
    mazes: int = 5
    objects: int = 5
    interactions: int = 2
    distractors: int = 4
    near: int = 11
    longest: int = 60
    shots: int = 1
    queries: int = 1
    held_out: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("random", "disconnected", "non-compositional"):
            raise UserError(
                f"support {self.kind!r} of goals: expected random, disconnected or "
                "non-compositional"
            )
        if self.size < 5 or self.size % 2 == 0:
            raise UserError(f"a grid of size {self.size}: expected an odd number from 5 on")
        if not 1 <= self.near <= self.longest:
            raise UserError(f"near {self.near}, longest {self.longest}: expected 1 <= near <= it")
        if min(self.factors) < 2 or min(self.shots, self.queries, self.held_out - 1) < 1:
            raise UserError(
                f"mazes {self.mazes}, objects {self.objects}, interactions {self.interactions}, "
                f"shots {self.shots}, queries {self.queries}, held_out {self.held_out}: expected "
                "at least 2, 2, 2, 1, 1 and 2"
            )
        free = ((self.size + 1) // 2) ** 2
        if not 0 <= self.distractors <= free - 2:
            raise UserError(f"{self.distractors} distractors: expected 0 to {free - 2}")

    @property
    def factors(self) -> tuple[int, int, int, int]:
        """How many values each has."""
        return QUADRANTS, self.interactions, self.mazes, self.objects

    @property
    def inputs(self) -> int:
        """A picture: for each place the kinds of object, the wall, the agent."""
        return self.size**2 * (self.objects + 2)

    @property
    def outputs(self) -> int:
        """Moves and interactions."""
        return len(MOVES) + self.interactions

    def split(self, seed: int) -> dict[str, np.ndarray]:
        """Codes `train` and `out`, [C, F]."""
        table_CF = np.array(list(itertools.product(*map(range, self.factors))), np.int32)
        if self.kind == "non-compositional":
            train_C = table_CF[:, 0] < QUADRANTS - 1
        elif self.kind == "disconnected":
            upper_CF = table_CF >= np.array(self.factors)[None] // 2
            train_C = upper_CF.all(1) | ~upper_CF.any(1)
        else:
            train_C = self._random(table_CF, seed)
        return {"train": table_CF[train_C], "out": table_CF[~train_C]}

    def _random(self, table_CF: np.ndarray, seed: int) -> np.ndarray:
        """Which rows are trained on: the first draw in which every value of every factor is."""
        draw = 0
        while True:
            order_C = np.random.default_rng((seed, draw)).permutation(len(table_CF))
            train_C = order_C >= len(table_CF) // self.held_out
            seen = [len(np.unique(values_C)) for values_C in table_CF[train_C].T]
            if tuple(seen) == self.factors:
                return train_C
            draw += 1

    def prepare(self, seed: int) -> dict[str, Any]:
        """Codes; mazes in which every quadrant has a goal, and their distances.

        Raises UserError: no such mazes are drawn.
        """
        random = np.random.default_rng((seed, 7))
        measure = jax.jit(lambda wall_G: distances(wall_G, self.size))
        walls, steps = [], []
        for _ in range(DRAWS):
            wall_G = maze(self.size, random).reshape(-1)
            distance_GG = np.asarray(measure(jnp.asarray(wall_G)))
            startable_G = self._startable(distance_GG).any(1)
            if all((quadrant_G & startable_G).any() for quadrant_G in quadrants(self.size)):
                walls.append(wall_G)
                steps.append(distance_GG)
            if len(walls) == self.mazes:
                fixed = {"wall_ZG": np.stack(walls), "distance_ZGG": np.stack(steps)}
                return {"codes": self.split(seed), "fixed": fixed}
        raise UserError(
            f"{DRAWS} mazes of size {self.size} do not give {self.mazes} with a way of "
            f"{self.near} to {self.longest} steps to every quadrant: use a smaller near or a "
            "larger longest"
        )

    def _startable(self, distance: Any) -> Any:
        """Which cells a demonstration may start from."""
        return (distance >= self.near) & (distance <= self.longest)

    def world(self, fixed: Any, key: jax.Array) -> World:
        """As prepared."""
        return World(fixed["wall_ZG"], fixed["distance_ZGG"])

    def task(self, world: World, code: jax.Array, key: jax.Array, shots: int) -> Task:
        """Demonstrations of a goal."""
        keys = jax.random.split(key, shots + self.queries)
        data = jax.vmap(lambda one: self.demonstration(world, code, one))(keys)
        support, query = (
            jax.tree.map(lambda leaf, part=part: leaf[part].reshape(-1, *leaf.shape[2:]), data)
            for part in (slice(None, shots), slice(shots, None))
        )
        known = [
            jax.nn.one_hot(value, count) for value, count in zip(code, self.factors, strict=True)
        ]
        return Task(support, query, jnp.concatenate(known))

    def demonstration(self, world: World, code: jax.Array, key: jax.Array) -> Data:
        """An optimal episode; points after the interaction have weight 0."""
        quadrant, interaction, number, kind = code
        goal_key, start_key, place_key, kind_key = jax.random.split(key, 4)
        wall_G, distance_GG = world.wall_ZG[number], world.distance_ZGG[number]
        startable_GG = self._startable(distance_GG)
        quadrant_G = jnp.asarray(quadrants(self.size))[quadrant]
        goal = _drawn(goal_key, quadrant_G & startable_GG.any(1))
        start = _drawn(start_key, startable_GG[goal])
        cells = jnp.arange(self.size**2, dtype=jnp.int32)
        free_G = ~wall_G & (cells != goal) & (cells != start)
        order_G = jnp.argsort(jnp.where(free_G, jax.random.uniform(place_key, free_G.shape), 2.0))
        place_D = order_G[: self.distractors]
        other_D = jax.random.randint(kind_key, (self.distractors,), 1, self.objects)
        kind_D = (kind + other_D) % self.objects
        to_G4, distance_G = neighbours(wall_G, self.size), distance_GG[goal]

        def step(carried: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Any]:
            cell, going = carried
            there = cell == goal
            move = distance_G[to_G4[cell]].argmin().astype(jnp.int32)
            action = jnp.where(there, len(MOVES) + interaction, move)
            after = jnp.where(there, cell, to_G4[cell, move])
            return (after, going * jnp.where(there, 0.0, 1.0)), (cell, action, going)

        _, (cell_T, action_T, going_T) = jax.lax.scan(step, (start, 1.0), None, self.longest + 1)
        seen_G = jnp.zeros((self.size**2, self.objects + 2))
        seen_G = seen_G.at[place_D, kind_D].set(1.0).at[goal, kind].set(1.0)
        seen_G = seen_G.at[:, -2].set(wall_G.astype(jnp.float32))
        x_TI = jax.vmap(lambda cell: seen_G.at[cell, -1].set(1.0).reshape(-1))(cell_T)
        return Data(x_TI, jax.nn.one_hot(action_T, self.outputs), going_T)

    @staticmethod
    def loss(outputs_PO: jax.Array, data: Data) -> jax.Array:
        """Cross-entropy of the optimal action, in nats, over points that count."""
        cross_P = -jnp.sum(data.y_PO * jax.nn.log_softmax(outputs_PO), -1)
        return jnp.sum(cross_P * data.weight_P) / jnp.sum(data.weight_P)

    def scores(self, outputs_PO: jax.Array, data: Data) -> dict[str, jax.Array]:
        """accuracy: of actions; episodes: the share that is right from end to end."""
        differs_P = outputs_PO.argmax(-1) != data.y_PO.argmax(-1)
        wrong_P = jnp.where(differs_P, data.weight_P, 0.0)
        episodes = jnp.sum(wrong_P.reshape(-1, self.longest + 1), -1) == 0
        return {
            "accuracy": 1 - jnp.sum(wrong_P) / jnp.sum(data.weight_P),
            "episodes": episodes.mean(),
        }


def quadrants(size: int) -> np.ndarray:
    """Which cells lie in each, [4, G]; the middle row and column belong to the first ones."""
    row, column = np.divmod(np.arange(size * size), size)
    lower, right = row > size // 2, column > size // 2
    return np.stack([~lower & ~right, ~lower & right, lower & ~right, lower & right])


def _drawn(key: jax.Array, allowed_G: jax.Array) -> jax.Array:
    """One of the allowed cells, uniformly."""
    logits_G = jnp.where(allowed_G, 0.0, -jnp.inf)
    return jax.random.categorical(key, logits_G).astype(jnp.int32)
