# SPDX-License-Identifier: Apache-2.0
"""Compositional preferences of 2312.15001, section 4.2: what an agent wants is a sum of modules.

A small room with walls, an agent and objects of several colours. A preference weighs a few of
`modules` basis vectors; a colour's worth is its entry of that sum. Picking up an object (stepping
on it) earns its worth, the action `stop` ends the episode; rewards are discounted. Optimal action
values are exact: value iteration over all cells x sets of objects that are left, once for each step
that is left. A learner regresses them from pictures along the greedy path.

A state's index is cell * sets + set, where bit j of `set` says that object j is still there. The
values of the whole horizon are used along the path, as the authors' code does.
Legend: A actions, B sets, C cells, J objects, F colours, M modules, T steps, P points, O outputs.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.modular.method import Data, Task
from training.recipes.modular.support import Support
from training.recipes.modular.theory import draw_codes

LAYOUT = ("#######", "#  #  #", "#  #  #", "##   ##", "#  #  #", "#  #  #", "#######")
MOVES = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))  # stop, up, right, down, left
STOP = 0


class Room(NamedTuple):
    """free_C2: (row, column) of the free cells. next_CA: where a move leads; walls hold."""

    walls: np.ndarray
    free_C2: np.ndarray
    next_CA: np.ndarray


def room(layout: tuple[str, ...] = LAYOUT) -> Room:
    """Of a layout whose border is walls (#)."""
    walls = np.array([[mark == "#" for mark in line] for line in layout])
    free_C2 = np.argwhere(~walls)
    index = {tuple(place): number for number, place in enumerate(free_C2.tolist())}
    next_CA = [
        [index.get((row + down, column + right), number) for down, right in MOVES]
        for number, (row, column) in enumerate(free_C2.tolist())
    ]
    return Room(walls, free_C2, np.array(next_CA, np.int32))


class Transitions(NamedTuple):
    """Of every state and action: the state that follows and what is earned, [C * B, A]."""

    following: jax.Array
    reward: jax.Array


def transitions(next_CA: jax.Array, cell_J: jax.Array, worth_J: jax.Array) -> Transitions:
    """cell_J: where the objects lie, all in different cells."""
    objects = len(cell_J)
    sets = 2**objects
    bit_J = 2 ** jnp.arange(objects, dtype=jnp.int32)
    set_B = jnp.arange(sets, dtype=jnp.int32)
    left_BJ = (set_B[:, None] // bit_J[None]) % 2
    on_CAJ = (next_CA[..., None] == cell_J[None, None]).astype(jnp.int32)
    on_CAJ = on_CAJ.at[:, STOP].set(0)
    picked_CBAJ = on_CAJ[:, None] * left_BJ[None, :, None]
    after_CBA = set_B[None, :, None] - jnp.einsum("cbaj,j->cba", picked_CBAJ, bit_J)
    reward_CBA = jnp.einsum("cbaj,j->cba", picked_CBAJ.astype(jnp.float32), worth_J)
    following_CBA = next_CA[:, None] * sets + after_CBA
    shape = (len(next_CA) * sets, len(MOVES))
    return Transitions(following_CBA.reshape(shape), reward_CBA.reshape(shape))


def value_iteration(moves: Transitions, discount: float, horizon: int) -> jax.Array:
    """Q with so many steps left, [states, A]; `stop` ends the episode and earns nothing."""

    def backed(value: jax.Array) -> jax.Array:
        q = moves.reward + discount * value[moves.following]
        return q.at[:, STOP].set(0.0)

    def step(_: jax.Array, value: jax.Array) -> jax.Array:
        return backed(value).max(-1)

    value = jax.lax.fori_loop(0, horizon - 1, step, jnp.zeros(len(moves.reward)))
    return backed(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences:
    """shots, queries: rooms of a task; every one gives `horizon` points."""

    support: Support
    objects: int = 4
    colours: int = 8
    shots: int = 16
    queries: int = 16
    horizon: int = 8
    discount: float = 0.9

    def __post_init__(self) -> None:
        if self.support.layers != 1:
            raise UserError(f"{self.support.layers} layers of modules: expected 1")
        cells = len(room().free_C2)
        if not 1 <= self.objects < min(cells, 9):
            raise UserError(f"{self.objects} objects: expected 1 to 8, in {cells} cells")
        if min(self.colours, self.shots, self.queries, self.horizon) < 1:
            raise UserError(
                f"colours {self.colours}, shots {self.shots}, queries {self.queries}, horizon "
                f"{self.horizon}: expected at least 1"
            )

    @property
    def inputs(self) -> int:
        """A picture: for each place the colours, the agent, the wall."""
        return len(LAYOUT) * len(LAYOUT[0]) * (self.colours + 2)

    @property
    def outputs(self) -> int:
        """Actions."""
        return len(MOVES)

    def prepare(self, seed: int) -> dict[str, Any]:
        """Codes by name, [C, M]. Raises UserError: see Support.split."""
        split = self.support.split(seed)
        codes = {"train": split.train_CLM[:, 0], "out": split.out_CLM[:, 0]}
        return {"codes": codes, "fixed": {}}

    def world(self, fixed: Any, key: jax.Array) -> jax.Array:
        """The basis: what each module finds in each colour, [M, F]."""
        return jax.random.normal(key, (self.support.modules, self.colours))

    def task(self, world: jax.Array, code: jax.Array, key: jax.Array, shots: int) -> Task:
        """A preference with this mask and weights in [0.5, 1], in fresh rooms."""
        code_key, key = jax.random.split(key)
        weights_M = draw_codes(code[None], code_key, continuous=True)[0]
        worth_F = weights_M @ world
        keys = jax.random.split(key, shots + self.queries)
        data = jax.vmap(lambda one: self.path(worth_F, one))(keys)
        support, query = (
            jax.tree.map(lambda leaf, part=part: leaf[part].reshape(-1, *leaf.shape[2:]), data)
            for part in (slice(None, shots), slice(shots, None))
        )
        return Task(support, query, weights_M)

    def path(self, worth_F: jax.Array, key: jax.Array) -> Data:
        """A fresh room along the greedy path; points after `stop` have weight 0."""
        place_key, colour_key = jax.random.split(key)
        static = room()
        next_CA = jnp.asarray(static.next_CA)
        cells = jax.random.permutation(place_key, len(next_CA))[: self.objects + 1]
        cells = cells.astype(jnp.int32)
        colour_J = jax.random.randint(colour_key, (self.objects,), 0, self.colours)
        moves = transitions(next_CA, cells[:-1], worth_F[colour_J])
        q = value_iteration(moves, self.discount, self.horizon)

        def step(carried: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Any]:
            state, going = carried
            action = q[state].argmax()
            after = moves.following[state, action]
            return (after, going * jnp.where(action == STOP, 0.0, 1.0)), (state, going)

        start = cells[-1] * 2**self.objects + 2**self.objects - 1
        _, (state_T, going_T) = jax.lax.scan(step, (start, 1.0), None, self.horizon)
        x_TI = jax.vmap(lambda state: self.picture(state, cells[:-1], colour_J))(state_T)
        return Data(x_TI, q[state_T], going_T)

    def picture(self, state: jax.Array, cell_J: jax.Array, colour_J: jax.Array) -> jax.Array:
        """What is seen of a state, [I]."""
        static = room()
        free_C2 = jnp.asarray(static.free_C2)
        sets = 2**self.objects
        left_J = (state % sets // 2 ** jnp.arange(self.objects, dtype=jnp.int32)) % 2
        shape = (*static.walls.shape, self.colours + 2)
        seen = jnp.zeros(shape).at[..., -1].set(jnp.asarray(static.walls, jnp.float32))
        row_J, column_J = free_C2[cell_J].T
        seen = seen.at[row_J, column_J, colour_J].set(left_J.astype(jnp.float32))
        row, column = free_C2[state // sets]
        return seen.at[row, column, -2].set(1.0).reshape(-1)

    @staticmethod
    def loss(outputs_PO: jax.Array, data: Data) -> jax.Array:
        """Half the squared error of the action values, over points that count."""
        missed_P = 0.5 * jnp.mean(jnp.square(outputs_PO - data.y_PO), -1)
        return jnp.sum(missed_P * data.weight_P) / jnp.sum(data.weight_P)

    @staticmethod
    def scores(outputs_PO: jax.Array, data: Data) -> dict[str, jax.Array]:
        """accuracy: the action chosen is an optimal one."""
        chosen_P = outputs_PO.argmax(-1)
        value_P = jnp.take_along_axis(data.y_PO, chosen_P[:, None], -1)[:, 0]
        right_P = value_P >= data.y_PO.max(-1) - 1e-6
        right = jnp.sum(jnp.where(right_P, data.weight_P, 0.0))
        return {"accuracy": right / jnp.sum(data.weight_P)}
