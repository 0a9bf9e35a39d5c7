# SPDX-License-Identifier: Apache-2.0
"""The probe for networks of values: the sine of a random network, learned by the arm's own loss and
scored by squared error. Legend: N images, O actions."""

from typing import Any

import jax
import jax.numpy as jnp

from eval.diagnostics.probe import Task, rows_task, sine_targets
from training.recipes.plasticity.learner import Learner, State
from training.recipes.rl.heads import decode, value_loss


def value_task(
    learner: Learner, state: State, x_NHWC: jax.Array, key: jax.Array, *, batch_size: int
) -> Task:
    """New targets for all values of these images."""
    head = learner.choices.head

    def outputs(params: Any, x_BHWC: jax.Array) -> jax.Array:
        return learner.shaped(learner.outputs(params, state.stats, x_BHWC).outputs_BO)

    def values(params: Any, x_BHWC: jax.Array) -> jax.Array:
        return decode(head, outputs(params, x_BHWC))

    random = learner.start(jax.random.fold_in(key, 1)).params
    y_NO = sine_targets(values, state.params, random, x_NHWC)

    def own_loss(params: Any, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.mean(value_loss(head, outputs(params, rows[0]), rows[1]))

    def error(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(values(params, x_NHWC) - y_NO))

    count = x_NHWC.shape[0]
    task = rows_task(own_loss, (x_NHWC, y_NO), batch_size=batch_size, count=count)
    return Task(task.loss, error)
