# SPDX-License-Identifier: Apache-2.0
"""Learning to learn by gradients: fast parameters of a task inside, shared ones outside.

    fast = adapt(learner, inner, loss, shared, support)            # n AdamW steps from a start
    loss, scores = outer_loss(learner, inner, loss, shared, tasks) # of queries, a mean over tasks

min over shared of E_task[ L(fast_task, shared; query) ], fast_task = n steps down L(.; support)
from the learner's start (2312.15001, section 2). Tasks are a vmapped axis, which `sharded` lays
over devices. The inner steps are differentiated through ("whole"), or taken as constants ("first
order": the outer gradient is that at the adapted parameters).
Legend: N tasks, P points of a task, I inputs, O outputs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recurrentgemma.errors import UserError
from training.optim import promoting

TASKS = "tasks"  # the mesh's axis
FLOOR = 1e-12  # under Adam's root: the derivative of a root is infinite at zero


class Data(NamedTuple):
    """Points of a task; weight: 0.0 for those that do not count."""

    x_PI: jax.Array
    y_PO: jax.Array
    weight_P: jax.Array


class Task(NamedTuple):
    """What is adapted to, what is scored, and the code of what made it, which no learner sees."""

    support: Data
    query: Data
    code: jax.Array


class Learner(Protocol):
    """Pure functions; a frozen dataclass of sizes."""

    def init(self, key: jax.Array, inputs: int, outputs: int) -> Any:
        """The shared parameters."""
        ...

    def start(self, shared: Any) -> Any:
        """A task's parameters before its first step."""
        ...

    def features(self, shared: Any, x_PI: jax.Array) -> jax.Array:
        """What no inner step changes, computed once."""
        ...

    def outputs(self, shared: Any, fast: Any, features: jax.Array) -> jax.Array:
        """[P, O]."""
        ...


Loss = Callable[[jax.Array, Data], jax.Array]
"""Outputs [P, O] and their points -> a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """batch: points of a step, in turn; all of them by default."""

    steps: int = 10
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    batch: int | None = None
    gradient: Literal["whole", "first order"] = "whole"

    def __post_init__(self) -> None:
        if self.gradient not in ("whole", "first order"):
            raise UserError(f"gradient {self.gradient!r}: expected 'whole' or 'first order'")
        if self.steps < 0 or (self.batch is not None and self.batch < 1):
            raise UserError(
                f"{self.steps} inner steps of {self.batch} points: expected 0 or more of at least 1"
            )


def adapt(learner: Learner, inner: Inner, loss: Loss, shared: Any, support: Data) -> Any:
    """A task's fast parameters after its inner steps of AdamW.

    Raises UserError: the support's points are no multiple of `batch`.
    """
    points = len(support.weight_P)
    batch = points if inner.batch is None else min(inner.batch, points)
    if points % batch:
        raise UserError(f"{points} support points in batches of {batch}: expected a multiple")
    tx = promoting(
        optax.adamw(inner.learning_rate, eps_root=FLOOR, weight_decay=inner.weight_decay)
    )
    features = learner.features(shared, support.x_PI)

    def support_loss(fast: Any, number: jax.Array) -> jax.Array:
        first = (number * batch) % points
        part_PF, part = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, batch), (features, support)
        )
        return loss(learner.outputs(shared, fast, part_PF), part)

    def step(carried: tuple[Any, Any], number: jax.Array) -> tuple[tuple[Any, Any], None]:
        fast, state = carried
        gradient = jax.grad(support_loss)(fast, number)
        if inner.gradient == "first order":
            gradient = jax.lax.stop_gradient(gradient)
        updates, state = tx.update(gradient, state, fast)
        return (optax.apply_updates(fast, updates), state), None

    start = learner.start(shared)
    numbers = jnp.arange(inner.steps, dtype=jnp.int32)
    return jax.lax.scan(step, (start, tx.init(start)), numbers)[0][0]


def predict(learner: Learner, shared: Any, fast: Any, data: Data) -> jax.Array:
    """Outputs, [P, O]."""
    return learner.outputs(shared, fast, learner.features(shared, data.x_PI))


def outer_loss(
    learner: Learner, inner: Inner, loss: Loss, shared: Any, tasks: Task
) -> tuple[jax.Array, jax.Array]:
    """The mean query loss, and each task's [N]. tasks: leaves with a leading axis N."""

    def one(task: Task) -> jax.Array:
        fast = adapt(learner, inner, loss, shared, task.support)
        return loss(predict(learner, shared, fast, task.query), task.query)

    loss_N = jax.vmap(one)(tasks)
    return loss_N.mean(), loss_N


def task_mesh(tasks: int, devices: int | None = None) -> Mesh:
    """A mesh of one axis: of so many devices, or by default of as many as divide the tasks.

    Raises UserError: the devices do not divide the tasks, or are not there.
    """
    there = jax.device_count()
    if devices is None:
        devices = max(count for count in range(1, there + 1) if tasks % count == 0)
    if not 1 <= devices <= there or tasks % devices:
        raise UserError(
            f"{tasks} tasks over {devices} devices of {there}: expected a divisor of the tasks"
        )
    return jax.make_mesh(
        (devices,), (TASKS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def sharded(tasks: Task, mesh: Mesh) -> Task:
    """The same tasks, laid over the mesh; inside of a program."""
    placement = NamedSharding(mesh, PartitionSpec(TASKS))
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, placement), tasks)


def outer_optimizer(
    learning_rate: Any, *, clip: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW of the shared parameters behind a clipped global norm."""
    return promoting(
        optax.chain(
            optax.clip_by_global_norm(clip), optax.adamw(learning_rate, weight_decay=weight_decay)
        )
    )
