# SPDX-License-Identifier: Apache-2.0
"""The plasticity probe: how well a network learns something new in a fixed budget, from a copy.

"Understanding plasticity in neural networks" (arXiv 2303.01486, section 3): the task's own
optimizer takes so many steps on targets that the network has never seen, from its parameters as
they are; the final loss tells its plasticity, and none of the cheaper statistics does. The same
budget from a fresh network stands beside it, on the same batches in the same order.

    task = regression(apply, params, random_params, x_NI, batch_size=128)
    result = probe(params, fresh_params, task, optax.adam(1e-3), steps=2000, key=key)
    result.loss - result.fresh_loss             # > 0: plasticity was lost

Parameters are any pytree. Everything is a pure function: nothing that is given changes, and seeds
and targets may be vmapped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SINE = 1e5  # of the random network's output: a target of very high frequency


class Task(NamedTuple):
    """Something new to learn."""

    loss: Callable[[Any, jax.Array], jax.Array]
    """(params, key) -> the mean loss of the batch that the key draws; what is differentiated."""
    score: Callable[[Any], jax.Array]
    """params -> the loss over all of it; what is reported."""


class Probe(NamedTuple):
    """What a probe found. `losses_K` are of the steps' batches, before each step."""

    loss: jax.Array
    fresh_loss: jax.Array
    losses_K: jax.Array
    fresh_losses_K: jax.Array


def probe(
    params: Any,
    fresh: Any,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    steps: int,
    key: jax.Array,
) -> Probe:
    """The task learned from `params`, and from `fresh`, a newly initialised network's."""
    learned, losses_K = fit(params, task.loss, tx, steps=steps, key=key)
    fresh, fresh_losses_K = fit(fresh, task.loss, tx, steps=steps, key=key)
    return Probe(task.score(learned), task.score(fresh), losses_K, fresh_losses_K)


def fit(
    params: Any,
    loss: Callable[[Any, jax.Array], jax.Array],
    tx: optax.GradientTransformation,
    *,
    steps: int,
    key: jax.Array,
) -> tuple[Any, jax.Array]:
    """Parameters after so many steps of a new optimizer, and the loss before each step."""

    def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        params, opt_state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        # optax raises a Python float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    (params, _), losses_K = jax.lax.scan(
        step, (params, tx.init(params)), jax.random.split(key, steps)
    )
    return params, losses_K


def rows_task(
    mean_loss: Callable[[Any, Any], jax.Array], rows: Any, *, batch_size: int, count: int
) -> Task:
    """A Task on `count` rows (a pytree of arrays with that first axis), of which each step draws
    batch_size with replacement. mean_loss(params, rows) is the mean over the rows it is given."""

    def loss(params: Any, key: jax.Array) -> jax.Array:
        index_B = jax.random.randint(key, (batch_size,), 0, count)
        return mean_loss(params, jax.tree.map(lambda x: x[index_B], rows))

    return Task(loss, lambda params: mean_loss(params, rows))


def regression(
    apply: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    random_params: Any,
    x_N: jax.Array,
    *,
    batch_size: int,
) -> Task:
    """For regressors: the squared error to sine_targets. apply(params, x_N) -> y_N or y_NO."""
    y_N = sine_targets(apply, params, random_params, x_N)

    def mean_loss(params: Any, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_B, y_B = rows
        return jnp.mean(jnp.square(apply(params, x_B) - y_B))

    return rows_task(mean_loss, (x_N, y_N), batch_size=batch_size, count=x_N.shape[0])


def sine_targets(
    apply: Callable[[Any, jax.Array], jax.Array], params: Any, random_params: Any, x_N: jax.Array
) -> jax.Array:
    """a + sin(1e5 f(x; random_params)), a the mean prediction now (section 3 of the paper)."""
    mean_1 = jnp.mean(apply(params, x_N), axis=0, keepdims=True)
    return jax.lax.stop_gradient(mean_1 + jnp.sin(SINE * apply(random_params, x_N)))


def classification(
    apply: Callable[[Any, jax.Array], jax.Array],
    x_N: jax.Array,
    *,
    classes: int,
    batch_size: int,
    key: jax.Array,
) -> Task:
    """For classifiers: the cross-entropy to random labels. apply(params, x_N) -> logits_NC."""
    label_N = jax.random.randint(key, (x_N.shape[0],), 0, classes)

    def mean_loss(params: Any, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_B, label_B = rows
        logits_BC = apply(params, x_B)
        logp_BC = jax.nn.log_softmax(logits_BC.astype(jnp.float32))
        return -jnp.mean(jnp.take_along_axis(logp_BC, label_B[:, None], 1))

    return rows_task(mean_loss, (x_N, label_N), batch_size=batch_size, count=x_N.shape[0])
