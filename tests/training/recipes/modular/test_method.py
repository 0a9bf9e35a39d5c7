# SPDX-License-Identifier: Apache-2.0
"""The inner loop against steps by hand, its gradient against finite differences in float64, and
tasks over devices against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.modular.hypernetworks import Anil, Dense, Hypernetwork, Maml
from training.recipes.modular.method import (
    Data,
    Inner,
    Task,
    adapt,
    outer_loss,
    predict,
    sharded,
    task_mesh,
)


def squared(outputs_PO, data):
    return jnp.mean(jnp.square(outputs_PO - data.y_PO))


def tasks_of(count: int, points: int = 6, inputs: int = 3, outputs: int = 2) -> Task:
    def data(key):
        x_key, y_key = jax.random.split(key)
        x = jax.random.normal(x_key, (count, points, inputs))
        return Data(x, jax.random.normal(y_key, (count, points, outputs)), jnp.ones(x.shape[:2]))

    return Task(data(jax.random.key(1)), data(jax.random.key(2)), jnp.zeros((count, 1)))


def test_anil_takes_the_steps_of_adamw():
    """In NumPy: the read-out alone moves, in batches in turn."""
    learner = Anil(width=4, depth=1)
    inner = Inner(steps=4, learning_rate=0.05, weight_decay=0.1, batch=3)
    shared = learner.init(jax.random.key(0), 3, 2)
    support = jax.tree.map(lambda leaf: leaf[0], tasks_of(1).support)
    fast = adapt(learner, inner, squared, shared, support)

    x, y = (np.asarray(leaf, np.float64) for leaf in support[:2])
    layer = [np.asarray(leaf, np.float64) for leaf in shared["body"][0]]
    params = [np.asarray(leaf, np.float64) for leaf in shared["head"]]
    features = np.maximum(x @ layer[0] + layer[1], 0)
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for step in range(4):
        part = slice(3 * (step % 2), 3 * (step % 2) + 3)
        missed = features[part] @ params[0] + params[1] - y[part]
        slope = 2 * missed / missed.size
        gradients = [features[part].T @ slope, slope.sum(0)]
        for n, gradient in enumerate(gradients):
            first[n] = 0.9 * first[n] + 0.1 * gradient
            second[n] = 0.999 * second[n] + 0.001 * gradient**2
            mean, square = first[n] / (1 - 0.9 ** (step + 1)), second[n] / (1 - 0.999 ** (step + 1))
            move = mean / (np.sqrt(square + 1e-12) + 1e-8) + 0.1 * params[n]
            params[n] = params[n] - 0.05 * move
    for ours, theirs in zip(fast, params, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(
        predict(learner, shared, fast, support), features @ params[0] + params[1], atol=2e-4
    )


@pytest.mark.parametrize(
    "learner",
    [Maml(width=4, depth=1), Hypernetwork(width=3, depth=1, templates=3, linear=False)],
    ids=["MAML", "hypernetwork"],
)
def test_the_gradient_through_the_inner_loop(learner):
    """Against central differences, in float64. Of a linear hypernetwork it is not the slope: the
    norm of a code is a constant there."""
    inner = Inner(steps=2, learning_rate=0.1)
    shared, tasks = learner.init(jax.random.key(0), 3, 2), tasks_of(2)
    with jax.enable_x64(True):
        shared, tasks = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (shared, tasks)
        )
        keys = iter(jax.random.split(jax.random.key(5), len(jax.tree.leaves(shared))))
        way = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), shared)
        loss = jax.jit(lambda one: outer_loss(learner, inner, squared, one, tasks)[0])
        gradient = jax.jit(jax.grad(loss))(shared)
        slope = sum(
            jnp.vdot(g, w) for g, w in zip(*map(jax.tree.leaves, (gradient, way)), strict=True)
        )
        small = 1e-6
        ends = [
            loss(jax.tree.map(lambda leaf, w, s=sign: leaf + s * small * w, shared, way))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * small), rtol=1e-5)


def test_first_order_is_the_gradient_at_the_adapted_parameters():
    learner, tasks = Maml(width=4, depth=1), tasks_of(1)
    shared = learner.init(jax.random.key(0), 3, 2)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    gradients = {}
    for kind in ("whole", "first order"):
        inner = Inner(steps=3, learning_rate=0.1, weight_decay=0.0, gradient=kind)
        gradients[kind] = jax.grad(
            lambda one, inner=inner: outer_loss(learner, inner, squared, one, tasks)[0]
        )(shared)
    fast = adapt(learner, inner, squared, shared, task.support)
    at_end = jax.grad(
        lambda one: squared(learner.outputs(shared, one, task.query.x_PI), task.query)
    )
    expected = at_end(fast)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (gradients["first order"], expected)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    differs = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), gradients["whole"], expected)
    assert max(jax.tree.leaves(differs)) > 1e-3


def test_no_gradient_is_not_a_number():
    """A support that is fitted already has a gradient of zero, and Adam a root of zero."""
    learner, inner = Maml(width=4, depth=1), Inner(steps=2)
    shared = [Dense(jnp.zeros_like(w), jnp.zeros_like(b)) for w, b in
              learner.init(jax.random.key(0), 3, 2)]  # fmt: skip
    tasks = tasks_of(1)
    zeros = jax.tree.map(jnp.zeros_like, tasks)
    gradient = jax.grad(
        lambda one: outer_loss(learner, inner, squared, one, zeros._replace(query=tasks.query))[0]
    )(shared)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_tasks_over_devices_are_the_tasks_of_one():
    learner, inner = Hypernetwork(width=3, depth=1, templates=2), Inner(steps=2)
    shared, tasks = learner.init(jax.random.key(0), 3, 2), tasks_of(8)
    results = {}
    for devices in (1, 8):
        mesh = task_mesh(8, devices)
        assert mesh.size == devices

        def loss(one, tasks, mesh=mesh):
            return outer_loss(learner, inner, squared, one, sharded(tasks, mesh))[0]

        program = jax.jit(jax.value_and_grad(loss))
        results[devices] = jax.device_get(program(shared, tasks))
        if devices == 8:
            assert "all-reduce" in (program.lower(shared, tasks).compile().as_text() or "")
    for one, eight in zip(*map(jax.tree.leaves, results.values()), strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)


def test_as_many_devices_as_divide_the_tasks():
    assert [task_mesh(tasks).size for tasks in (16, 6, 7)] == [8, 6, 7]


def test_bad_input():
    with pytest.raises(UserError, match="gradient 'second': expected 'whole' or 'first order'"):
        Inner(gradient="second")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="-1 inner steps of None points"):
        Inner(steps=-1)
    with pytest.raises(UserError, match="16 tasks over 3 devices of 8"):
        task_mesh(16, 3)
    learner = Anil(width=4, depth=1)
    shared = learner.init(jax.random.key(0), 3, 2)
    support = jax.tree.map(lambda leaf: leaf[0], tasks_of(1).support)
    with pytest.raises(UserError, match="6 support points in batches of 4: expected a multiple"):
        adapt(learner, Inner(batch=4), squared, shared, support)
