# SPDX-License-Identifier: Apache-2.0
"""One optimizer step as a pure function: train_step(train_state, batch) -> (train_state,
metrics)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from recurrentgemma import parallel, sharding
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import next_token_loss
from recurrentgemma.sharded import over, place
from training.data import Batch

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that a step changes. `skipped` counts the steps so far whose gradients were not
    finite."""

    step: jax.Array  # int32, how many batches have been seen
    params: Any
    opt_state: optax.OptState
    skipped: jax.Array  # int32


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_train_state(
    params: Any, tx: optax.GradientTransformation, mesh: Mesh | None = None
) -> TrainState:
    """Step 0; on a mesh the optimizer's state lies where its parameters do. The first train_step
    donates these buffers: params may not be used after it."""
    zero = jnp.zeros((), jnp.int32)
    if mesh is None:
        return TrainState(zero, params, tx.init(params), zero.copy())
    places = sharding.shardings(mesh, jax.eval_shape(tx.init, params))
    opt_state = jax.jit(tx.init, out_shardings=places)(params)
    step, skipped = place(mesh, P(), zero, zero.copy())  # two buffers: each is donated
    return TrainState(step, params, opt_state, skipped)


def make_train_step(
    graphdef: nnx.GraphDef[Griffin],
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    z_loss: float = 0.0,
    accumulate: int = 1,
) -> TrainStep:
    """The jitted step for models of this structure. It donates the train state it is given.

    With a mesh, train state and batches lie on it (init_train_state; sharding.BATCH). accumulate:
    the rows of a batch (of each device) go in so many parts, one after the other, whose gradients
    are added: the same step in less memory.

    metrics: float32 scalars `loss` (mean nats per counted target, before the z-loss), `grad_norm`
    (before clipping), `param_norm` (after the step) and int32 `skipped`. A step whose loss or
    gradient norm is not finite leaves parameters and optimizer as they were and is counted; its
    batch is not seen again.
    """

    def loss_fn(params: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
        return next_token_loss(nnx.merge(graphdef, params), batch, z_loss=z_loss)

    def gradients(params: Any, batch: Batch) -> tuple[Any, Any]:
        run = jax.value_and_grad(loss_fn, has_aux=True)
        if accumulate == 1:
            return run(params, batch)
        tokens = parallel.total(jnp.sum(batch.weights_BT), *sharding.TOKEN_AXES)
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

        def add(whole: Any, part: Batch) -> tuple[Any, None]:
            (loss, metrics), grads = run(params, part)
            share = metrics["tokens"] / jnp.maximum(tokens, 1)
            found = ((loss, {"nll": metrics["nll"]}), grads)
            return jax.tree.map(lambda a, b: a + (share * b).astype(a.dtype), whole, found), None

        zero = jnp.zeros(())
        start = ((zero, {"nll": zero}), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, start, parts)[0]

    def train_step(train_state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        step, params, opt_state, skipped = train_state
        run = gradients
        if mesh is not None:
            specs = sharding.specs(params)
            run = over(mesh, gradients, (specs, sharding.BATCH), (P(), specs))
        (loss, metrics), grads = run(params, batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, new_opt_state = tx.update(grads, opt_state, params)
        new_params = optax.apply_updates(params, updates)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (new_params, new_opt_state),
            (params, opt_state),
        )
        skipped = skipped + (~finite).astype(jnp.int32)
        metrics = {
            "loss": metrics["nll"],
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(params),
            "skipped": skipped,
        }
        return TrainState(step + 1, params, opt_state, skipped), metrics

    return jax.jit(train_step, donate_argnums=0)
