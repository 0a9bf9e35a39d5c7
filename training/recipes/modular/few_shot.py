# SPDX-License-Identifier: Apache-2.0
"""Meta-training of a learner on a family of tasks, and its tests; seeds side by side.

    arm = FewShotArm(family=HyperTeacher(support=...), learner=Hypernetwork(...), ...)
    for cell, numbers in train_arms(cells): ...

A family makes a world from a seed, and tasks of it from codes. An outer step draws codes of the
training combinations, adapts to each (method.py), and takes one AdamW step. Tasks lie on all
devices that divide them; with one device nothing is laid out.
Legend: S seeds, N tasks, C codes.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell, as_json
from training.recipes.modular.method import (
    Data,
    Inner,
    Learner,
    Task,
    adapt,
    outer_loss,
    outer_optimizer,
    predict,
    sharded,
    task_mesh,
)
from training.recipes.side_by_side import join, numbers_of, programs, seeds_of, split

RIDGE = 0.01  # of the decoder of codes, times the mean square of the fast parameters


class Family(Protocol):
    """Tasks that share a world; a frozen dataclass."""

    @property
    def inputs(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    @property
    def shots(self) -> int:
        """Of a training task; what a shot is, the family knows."""
        ...

    def prepare(self, seed: int) -> dict[str, Any]:
        """NumPy arrays: `codes` by name, `train` and `out` among them, and what is `fixed`."""
        ...

    def world(self, fixed: Any, key: jax.Array) -> Any:
        """What all tasks of a seed share."""
        ...

    def task(self, world: Any, code: jax.Array, key: jax.Array, shots: int) -> Task:
        """One task of this code."""
        ...

    def loss(self, outputs_PO: jax.Array, data: Data) -> jax.Array: ...

    def scores(self, outputs_PO: jax.Array, data: Data) -> dict[str, jax.Array]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotArm:
    """tested: tasks of a test. test_shots: the held-out codes are tested with so many, too."""

    family: Any
    learner: Any
    inner: Inner
    outer_rate: float
    clip: float
    outer_decay: float
    steps: int
    tasks: int
    measured: int = 10
    tested: int = 64
    test_shots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.steps, self.tasks, self.measured, self.tested, *self.test_shots) < 1:
            raise UserError(
                f"steps {self.steps}, tasks {self.tasks}, measured {self.measured}, tested "
                f"{self.tested}, test_shots {self.test_shots}: expected at least 1"
            )
        if self.steps % self.measured:
            raise UserError(f"{self.steps} steps measured {self.measured} times: not a multiple")


class State(NamedTuple):
    """Of a seed."""

    shared: Any
    optimizer: Any
    key: jax.Array


class Run:
    """The pure functions of a seed; the floats of the arm may be traced."""

    def __init__(self, arm: FewShotArm, mesh: Mesh | None = None):
        self.arm, self.mesh = arm, mesh
        self.family: Family = arm.family
        self.learner: Learner = arm.learner

    def _tx(self) -> optax.GradientTransformation:
        arm = self.arm
        return outer_optimizer(arm.outer_rate, clip=arm.clip, weight_decay=arm.outer_decay)

    def start(self, fixed: Any, seed: jax.Array) -> tuple[Any, State]:
        """A world, and the state before the first step."""
        world_key, init_key, key = jax.random.split(jax.random.key(seed), 3)
        shared = self.learner.init(init_key, self.family.inputs, self.family.outputs)
        return self.family.world(fixed, world_key), State(shared, self._tx().init(shared), key)

    def draw(self, world: Any, codes: jax.Array, key: jax.Array, shots: int) -> Task:
        """A task of each of these codes; leaves have a leading axis N."""
        keys = jax.random.split(key, len(codes))
        return jax.vmap(lambda code, one: self.family.task(world, code, one, shots))(codes, keys)

    def step(self, world: Any, codes: jax.Array, state: State) -> tuple[State, jax.Array]:
        """One outer step, and its loss."""
        arm = self.arm
        code_key, draw_key, key = jax.random.split(state.key, 3)
        drawn = _rows(codes, code_key, arm.tasks)
        tasks = self.draw(world, drawn, draw_key, self.family.shots)
        if self.mesh is not None:
            tasks = sharded(tasks, self.mesh)

        def loss(shared: Any) -> jax.Array:
            return outer_loss(self.learner, arm.inner, self.family.loss, shared, tasks)[0]

        value, gradient = jax.value_and_grad(loss)(state.shared)
        updates, optimizer = self._tx().update(gradient, state.optimizer, state.shared)
        return State(optax.apply_updates(state.shared, updates), optimizer, key), value

    def stretch(self, world: Any, codes: jax.Array, state: State) -> tuple[State, jax.Array]:
        """The steps up to the next measurement, and their mean loss."""

        def one(state: State, _: None) -> tuple[State, jax.Array]:
            return self.step(world, codes, state)

        state, losses = jax.lax.scan(one, state, None, self.arm.steps // self.arm.measured)
        return state, losses.mean()

    def test(
        self, world: Any, codes: jax.Array, shared: Any, key: jax.Array, shots: int
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Of a task of each of these codes, [N]: the loss and scores; codes and fast parameters,
        flat."""
        tasks = self.draw(world, codes, key, shots)

        def one(task: Task) -> tuple[dict[str, jax.Array], jax.Array]:
            fast = adapt(self.learner, self.arm.inner, self.family.loss, shared, task.support)
            outputs_PO = predict(self.learner, shared, fast, task.query)
            flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(fast)])
            scores = self.family.scores(outputs_PO, task.query)
            return scores | {"loss": self.family.loss(outputs_PO, task.query)}, flat

        scores, fast_NF = jax.lax.map(one, tasks, batch_size=min(8, len(codes)))
        return scores, tasks.code, fast_NF

    def tests(self, world: Any, codes: Mapping[str, Any], state: State) -> dict[str, Any]:
        """By name, of new tasks of the training codes (`in`), of held-out ones and the others;
        `decoding`: R^2 of the held-out codes, read from the fast parameters by the decoder of
        `in`."""
        code_key, key = jax.random.split(jax.random.fold_in(state.key, 1))
        tested = self.arm.tested
        drawn = [
            _rows(of_name, jax.random.fold_in(code_key, number), tested)
            for number, of_name in enumerate(codes.values())
        ]
        names = ["in" if name == "train" else name for name in codes]
        shots = self.family.shots
        scores, code_NM, fast_NF = self.test(
            world, jnp.concatenate(drawn), state.shared, jax.random.fold_in(key, 0), shots
        )
        numbers: dict[str, Any] = {}
        parts = {}
        for number, name in enumerate(names):
            parts[name] = slice(number * tested, (number + 1) * tested)
            numbers[name] = {one: values_N[parts[name]].mean() for one, values_N in scores.items()}
        out = drawn[names.index("out")]
        for fewer in self.arm.test_shots:
            one_key = jax.random.fold_in(key, fewer)
            scores, _, _ = self.test(world, out, state.shared, one_key, fewer)
            numbers[f"{fewer} shots"] = {one: of.mean() for one, of in scores.items()}
        known, new = parts["in"], parts["out"]
        return numbers | {
            "decoding": decoded(fast_NF[known], code_NM[known], fast_NF[new], code_NM[new])
        }


def _rows(codes: jax.Array, key: jax.Array, count: int) -> jax.Array:
    """So many of the codes, drawn with replacement."""
    return codes[jax.random.randint(key, (count,), 0, len(codes))]


def decoded(
    fast_NF: jax.Array, code_NM: jax.Array, new_fast_NF: jax.Array, new_code_NM: jax.Array
) -> jax.Array:
    """R^2 of new codes by a ridge regression on known ones, in its dual form.

    Both are centred by the known ones; 1 - squared error / squared distance from the new mean.
    """
    mean_F, mean_M = fast_NF.mean(0, keepdims=True), code_NM.mean(0, keepdims=True)
    centred_NF = fast_NF - mean_F
    gram = centred_NF @ centred_NF.T
    ridge = RIDGE * jnp.trace(gram) / len(gram) + 1e-12
    dual_NM = jnp.linalg.solve(gram + ridge * jnp.eye(len(gram)), code_NM - mean_M)
    read_NM = (new_fast_NF - mean_F) @ (centred_NF.T @ dual_NM) + mean_M
    spread = jnp.sum(jnp.square(new_code_NM - new_code_NM.mean(0, keepdims=True)))
    return 1 - jnp.sum(jnp.square(read_NM - new_code_NM)) / spread


def train_arms(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """All cells of one structure as one program: `loss` by measurement, and `tests`.

    Raises UserError: a support is not as it was asked for; see Support.split.
    """
    prepared = [cell.choices.family.prepare(cell.seed) for cell in cells]  # before any training
    of_cell = {(cell.arm, cell.seed): one for cell, one in zip(cells, prepared, strict=True)}
    for group in programs(cells):
        structure: FewShotArm = split(group[0].choices)[0]
        mesh = task_mesh(structure.tasks) if jax.device_count() > 1 else None

        def run(numbers: Any, structure: FewShotArm = structure, mesh: Any = mesh) -> Run:
            return Run(join(structure, numbers), mesh)

        stacked = jax.tree.map(
            lambda *leaves: jnp.asarray(np.stack(leaves)),
            *(of_cell[cell.arm, cell.seed] for cell in group),
        )
        codes, fixed = stacked["codes"], stacked["fixed"]
        numbers, seeds = numbers_of(group), seeds_of(group)
        world, state = jax.jit(jax.vmap(lambda n, f, s, run=run: run(n).start(f, s)))(
            numbers, fixed, seeds
        )
        stretch = jax.jit(
            jax.vmap(lambda n, w, c, s, run=run: run(n).stretch(w, c, s)), donate_argnums=3
        )
        losses = []
        for _ in range(structure.measured):
            state, loss_S = stretch(numbers, world, codes["train"], state)
            losses.append(loss_S)
        tests = jax.jit(jax.vmap(lambda n, w, c, s, run=run: run(n).tests(w, c, s)))(
            numbers, world, codes, state
        )
        tests, losses = jax.device_get((tests, losses))
        for number, cell in enumerate(group):
            of_seed = jax.tree.map(lambda leaf, n=number: leaf[n], tests)
            yield cell, as_json({"loss": [loss_S[number] for loss_S in losses], "tests": of_seed})
