# SPDX-License-Identifier: Apache-2.0
"""A network on a stream of tasks, top to bottom; arms and seeds run side by side.

    for cell, numbers in train_streams(cells): ...       # cells of StreamArm

Legend: N images, B batch, T tasks, M measurements within a task.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell, as_json
from training.recipes.plasticity import streams
from training.recipes.plasticity.learner import Choices, Learner, State
from training.recipes.plasticity.panel import panel, units
from training.recipes.plasticity.pictures import Pictures, pictures
from training.recipes.rl.heads import decode, value_loss
from training.recipes.side_by_side import batched, join, numbers_of, programs, seeds_of, split
from training.recipes.vision.network import has_convolutions

CHUNK = 1000  # images that are scored at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamArm:
    """images: of the source, that the stream is over. measured: the first of them, on which units
    are counted. points: measurements within a task, the last at its end. full: whether ranks and
    the tangent kernel are measured at each task's end, too."""

    choices: Choices
    stream: streams.Stream
    source: str = "mnist"
    images: int = 5000
    measured: int = 1000
    points: int = 2
    full: bool = False

    def __post_init__(self) -> None:
        """Raises UserError: the points do not divide the steps; a head of numbers for labels."""
        if self.points < 1 or self.stream.steps % self.points:
            raise UserError(
                f"points={self.points}: expected a divisor of a task's {self.stream.steps} steps"
            )
        head, kind = self.choices.head, self.stream.kind
        if head.kind != "number" and kind != "targets":
            raise UserError(
                f"a head of {head.kind} with a stream of {kind}: classes take none, leave it out"
            )


class Carry(NamedTuple):
    """Of a cell, from task to task."""

    state: State
    labels_N: jax.Array


class Run:
    """The pure functions of arms of one structure: of one cell, its numbers traced."""

    def __init__(self, structure: StreamArm, data: Pictures):
        self.structure, self.data = structure, data

    def start(self, numbers: Any, seed: jax.Array) -> Carry:
        """Before the first task."""
        return Carry(self._learner(numbers)[1].start(_key(seed, 0)), self.data.labels_N)

    def one_task(
        self, numbers: Any, seed: jax.Array, carry: Carry, number: jax.Array
    ) -> tuple[Carry, dict[str, Any]]:
        """Learn a task; what was measured at its M points and at its end."""
        arm, learner = self._learner(numbers)
        x_NHWC, true_N, of_class = self.data
        task = streams.task(
            *(arm.stream, _key(seed, 1), number, carry.labels_N),
            true_N=true_N,
            pixels_NP=x_NHWC.reshape(x_NHWC.shape[0], -1),
            classes=of_class.shape[0],
        )
        key = jax.random.fold_in(_key(seed, 2), number)
        count = arm.stream.steps // arm.points
        measured = streams.shown(arm.stream, x_NHWC[: arm.measured], task.places_P)

        def step(i: jax.Array, carried: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, losses = carried
            index_B = jax.random.randint(
                jax.random.fold_in(key, i), (arm.stream.batch_size,), 0, x_NHWC.shape[0]
            )
            labels_B, values_B = task.labels_N[index_B], task.values_N[index_B]

            def loss(outputs_BOK: jax.Array) -> jax.Array:
                if arm.stream.kind == "targets":
                    return jnp.mean(value_loss(arm.choices.head, outputs_BOK[:, 0], values_B))
                logits_BC = outputs_BOK[..., 0]
                return jnp.mean(
                    optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B)
                )

            x_BHWC = streams.shown(arm.stream, x_NHWC[index_B], task.places_P)
            state, value = learner.step(state, loss, x_BHWC)
            return state, losses + value

        def point(state: State, m: jax.Array) -> tuple[State, dict[str, jax.Array]]:
            state, losses = jax.lax.fori_loop(
                m * count, (m + 1) * count, step, (state, jnp.zeros(()))
            )
            shares = units(learner, state, measured)
            state = learner.recycled(state, measured, jax.random.fold_in(key, ~m))
            return state, {"loss": losses / count, **shares}

        state, points_M = jax.lax.scan(point, carry.state, jnp.arange(arm.points))
        score = self._score(learner, state, task)
        state = learner.switch(state, jax.random.fold_in(_key(seed, 3), number))
        return Carry(state, task.labels_N), {"points": points_M, **score}

    def measure(self, numbers: Any, state: State) -> dict[str, jax.Array]:
        """The whole panel."""
        arm, learner = self._learner(numbers)
        return panel(learner, state, self.data.x_NHWC[: arm.measured])

    def _score(self, learner: Learner, state: State, task: streams.Task) -> dict[str, jax.Array]:
        """Over all images: the accuracy, or of numbers the squared error."""

        def outputs(x_HWC: jax.Array) -> jax.Array:
            x_1HWC = streams.shown(self.structure.stream, x_HWC[None], task.places_P)
            one = learner.outputs(state.params, state.stats, x_1HWC)
            return learner.shaped(one.outputs_BO)[0]

        outputs_NOK = jax.lax.map(outputs, self.data.x_NHWC, batch_size=CHUNK)
        if self.structure.stream.kind == "targets":
            predicted_N = decode(learner.choices.head, outputs_NOK[:, 0])
            return {"error": jnp.mean(jnp.square(predicted_N - task.values_N))}
        right_N = jnp.argmax(outputs_NOK[..., 0], -1) == task.labels_N
        return {"accuracy": jnp.mean(right_N, dtype=jnp.float32)}

    def _learner(self, numbers: Any) -> tuple[StreamArm, Learner]:
        arm = join(self.structure, numbers)
        classes = self.data.of_class_CM.shape[0]
        return arm, Learner(
            arm.choices,
            image_shape=self.data.x_NHWC.shape[1:],
            numbers=1 if arm.stream.kind == "targets" else classes,
        )


def train_streams(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The numbers of each cell, those of one structure as one program; by name, in order of tasks:

    accuracy (or error) at each task's end; points: loss, dead, linearised, ... of all M points of
    all tasks; panel, where it is `full`.
    """
    for group in programs(cells):
        arm: StreamArm = group[0].choices
        data = pictures(arm.source, arm.images)
        yield from zip(group, run_group(group, data), strict=True)


def run_group(group: Sequence[Cell], data: Pictures) -> list[dict[str, Any]]:
    """The numbers of cells of one structure."""
    arm: StreamArm = group[0].choices
    run = Run(split(arm)[0], data)
    numbers, seeds = numbers_of(group), seeds_of(group)
    carry = jax.jit(jax.vmap(run.start))(numbers, seeds)
    large = has_convolutions(arm.choices.network)
    one_task = jax.jit(batched(run.one_task, (0, 0, 0, None), large=large), donate_argnums=2)
    # One cell after the other: the tangent kernel holds each image's gradient.
    measure = jax.jit(lambda *stacked: jax.lax.map(lambda one: run.measure(*one), stacked))
    tasks, panels = [], []
    for number in range(arm.stream.tasks):
        carry, record = one_task(numbers, seeds, carry, jnp.asarray(number, jnp.int32))
        tasks.append(record)
        if arm.full:
            panels.append(measure(numbers, carry.state))
    tasks, panels = jax.device_get((tasks, panels))
    return [as_json(_of_cell(tasks, panels, number)) for number in range(len(group))]


def _of_cell(
    tasks: list[dict[str, Any]], panels: list[dict[str, Any]], cell: int
) -> dict[str, Any]:
    """Lists over the tasks, and over all points."""
    tasks, panels = jax.tree.map(lambda leaf: leaf[cell], (tasks, panels))
    numbers: dict[str, Any] = {
        name: [task[name] for task in tasks] for name in tasks[0] if name != "points"
    }
    numbers["points"] = {
        name: [value for task in tasks for value in task["points"][name].tolist()]
        for name in tasks[0]["points"]
    }
    if panels:
        numbers["panel"] = {name: [one[name] for one in panels] for name in panels[0]}
    return numbers


def _key(seed: jax.Array, purpose: int) -> jax.Array:
    """Of a seed for one purpose: the network, the tasks, the batches, the resets."""
    return jax.random.fold_in(jax.random.key(seed), purpose)
