# SPDX-License-Identifier: Apache-2.0
"""The compiled parts of a training with pruning: steps, the scan for dead units, scores, accuracy.

Each is a function of arrays for networks of one config and is compiled for their shapes; penalty,
noise and their schedule are arguments, so that arms share it. All but the images has a leading axis
of seeds.

Legend: S seeds, T steps, B batch, N examples, U units, H W C of an image.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recurrentgemma.errors import UserError
from training.optim import promoting
from training.pruning.schedules import penalty_schedule
from training.recipes import side_by_side
from training.recipes.pruning import method
from training.recipes.pruning.choices import Training
from training.recipes.pruning.widths import layers_of, shared_axes
from training.recipes.vision.network import Network, has_convolutions

SCANNED = 500  # examples in a batch of the dead criterion; 512 in the paper's code
PART = 50  # that are read at once: what more of them write no longer fits a core's cache
Shape = tuple[int, int, int]


class Trained(NamedTuple):
    """Of all seeds, arrays with a leading axis of them."""

    params: Any
    stats: Any
    opt_state: Any


@functools.lru_cache(maxsize=64)
def network_of(config: Any, image_shape: Shape, classes: int) -> Network:
    return Network(config, image_shape=image_shape, outputs=classes)


def make_optimizer(choices: Training) -> optax.GradientTransformation:
    """AdamW, or momentum with decoupled decay; the learning rate is a one-cycle over the steps."""
    rate = penalty_schedule("one_cycle", choices.steps)

    def scheduled(step: Any) -> jax.Array:
        return jnp.asarray(choices.learning_rate * rate(step))

    if choices.optimizer == "adamw":
        tx = optax.adamw(scheduled, weight_decay=choices.weight_decay)
    elif choices.optimizer == "sgdm":
        tx = optax.chain(
            optax.trace(0.9),
            optax.add_decayed_weights(choices.weight_decay),
            optax.scale_by_learning_rate(scheduled),
        )
    else:
        raise UserError(f"optimizer={choices.optimizer!r}: expected adamw or sgdm")

    return promoting(tx)


@functools.lru_cache(maxsize=64)
def steps_program(
    config: Any, image_shape: Shape, classes: int, choices: Training, noisy: bool
) -> Any:
    """(trained, keys_S, steps_T, (penalties_T, deviations_T), x_NHWC, y_N) -> trained, losses_ST.

    choices: of the optimizer and the batch. noisy: else no noise is drawn. The first argument is
    donated.
    """
    network, tx = network_of(config, image_shape, classes), make_optimizer(choices)
    paths = {
        axis.path
        for axes in shared_axes(config, image_shape, classes).values()
        for axis in axes
        if axis.path[-1] == "scale"
    }

    def step(trained: Trained, key: Any, at: Any, x_NHWC: Any, y_N: Any) -> Any:
        number, penalty, deviation = at
        draw, noise_key = jax.random.split(jax.random.fold_in(key, number))
        index_B = jax.random.randint(draw, (choices.batch_size,), 0, len(y_N))

        def loss_fn(params: Any) -> Any:
            outputs, stats = network.train(params, trained.stats, x_NHWC[index_B])
            return cross_entropy(outputs.outputs_BO, y_N[index_B]), stats

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained.params)
        drawn = jax.tree.map(
            lambda grad, sign: grad + penalty * sign,
            grads,
            method.penalty_gradient(trained.params, paths),
        )
        updates, opt_state = tx.update(drawn, trained.opt_state, trained.params)
        params = optax.apply_updates(trained.params, updates)
        if noisy:
            params = jax.tree.map(jnp.add, params, method.live_noise(grads, noise_key, deviation))
        return Trained(params, stats, opt_state), loss

    def steps(
        trained: Trained, key: Any, steps_T: Any, strengths: Any, x_NHWC: Any, y_N: Any
    ) -> tuple[Trained, jax.Array]:
        def one(trained: Trained, at: Any) -> Any:
            return step(trained, key, at, x_NHWC, y_N)

        return jax.lax.scan(one, trained, (steps_T, *strengths))

    of_all = side_by_side.batched(
        steps, (0, 0, None, None, None, None), large=has_convolutions(config)
    )
    return jax.jit(of_all, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def scan_program(config: Any, image_shape: Shape, classes: int) -> Any:
    """(params, stats, x_NHWC) -> width -> which units are dead on all images, [S, U]. Images beyond
    the last whole batch are a batch of their own."""
    network, layers = network_of(config, image_shape, classes), layers_of(config)

    def of_batch(params: Any, stats: Any, x_BHWC: Any) -> dict[str, jax.Array]:
        def sums(x_BHWC: Any) -> dict[str, jax.Array]:
            return method.activation_sums(network.apply(params, stats, x_BHWC).hidden)

        size = PART if len(x_BHWC) % PART == 0 else len(x_BHWC)
        of_parts = jax.lax.map(sums, x_BHWC.reshape(-1, size, *x_BHWC.shape[1:]))
        return method.dead_units(jax.tree.map(lambda sums: sums.sum(0), of_parts), layers)

    def scan(params: Any, stats: Any, x_NHWC: Any) -> dict[str, jax.Array]:
        of_all = side_by_side.batched(of_batch, (0, 0, None), large=has_convolutions(config))
        whole = len(x_NHWC) // SCANNED * SCANNED
        parts = []
        if whole:
            batches = x_NHWC[:whole].reshape(-1, SCANNED, *x_NHWC.shape[1:])
            dead = jax.lax.map(lambda x_BHWC: of_all(params, stats, x_BHWC), batches)
            parts.append(jax.tree.map(lambda every: every.all(0), dead))
        if whole < len(x_NHWC):
            parts.append(of_all(params, stats, x_NHWC[whole:]))
        return jax.tree.map(lambda *dead: functools.reduce(jnp.logical_and, dead), *parts)

    return jax.jit(scan)


@functools.lru_cache(maxsize=64)
def score_program(config: Any, image_shape: Shape, classes: int, score: Callable[..., Any]) -> Any:
    """(params, stats, masks, x_BHWC, y_B) -> scores by width [S, U]; score: of method.py."""
    network = network_of(config, image_shape, classes)
    shared = shared_axes(config, image_shape, classes)

    def scores(params: Any, stats: Any, masks: Any, x_BHWC: Any, y_B: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return cross_entropy(network.train(params, stats, x_BHWC)[0].outputs_BO, y_B)

        return score(loss, params, shared, masks)

    return jax.jit(
        side_by_side.batched(scores, (0, 0, 0, None, None), large=has_convolutions(config))
    )


@functools.lru_cache(maxsize=64)
def accuracy_program(config: Any, image_shape: Shape, classes: int) -> Any:
    """(params, stats, x_NHWC, y_N) -> accuracy_S. What is left over of whole parts is not seen: the
    number of images is a multiple of PART, or below it."""
    network = network_of(config, image_shape, classes)

    def accuracy(params: Any, stats: Any, x_NHWC: Any, y_N: Any) -> jax.Array:
        size = min(PART, len(y_N))
        count = len(y_N) // size * size
        batches = x_NHWC[:count].reshape(-1, size, *x_NHWC.shape[1:])

        def right(at: Any) -> jax.Array:
            x_BHWC, y_B = at
            predicted = network.apply(params, stats, x_BHWC).outputs_BO.argmax(-1)
            return (predicted.astype(y_B.dtype) == y_B).mean(dtype=jnp.float32)

        return jax.lax.map(right, (batches, y_N[:count].reshape(-1, size))).mean()

    return jax.jit(
        side_by_side.batched(accuracy, (0, 0, None, None), large=has_convolutions(config))
    )


def cross_entropy(outputs_BO: jax.Array, labels_B: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs_BO, labels_B).mean()


@functools.lru_cache(maxsize=64)
def compiled(program: Any, structure: Any, shapes: tuple[Any, ...]) -> Any:
    """A program compiled for arguments of these shapes."""
    return program.lower(*jax.tree.unflatten(structure, shapes)).compile()
