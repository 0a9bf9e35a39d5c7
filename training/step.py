# SPDX-License-Identifier: Apache-2.0
"""One optimizer step as a pure function: train_step(train_state, batch) -> (train_state,
metrics)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from recurrentgemma import parallel, sharding
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import loss_and_state
from recurrentgemma.sharded import on_mesh, place
from recurrentgemma.state import State
from training.data.batches import Batch

Metrics = dict[str, Any]
OBSERVED = "observed"


class TrainState(NamedTuple):
    """All that a step changes. `skipped` counts the steps so far whose gradients were not finite.
    `carried` is the model's state after the last batch, for documents that go on in the next."""

    step: jax.Array  # int32, how many batches have been seen
    params: Any
    opt_state: optax.OptState
    skipped: jax.Array  # int32
    carried: State | None = None


class TrainStep(Protocol):
    """The jitted step: see make_train_step."""

    def __call__(
        self, train_state: TrainState, batch: Batch, frozen: Any = ()
    ) -> tuple[TrainState, Metrics]: ...

    def lower(self, train_state: Any, batch: Any, frozen: Any = ()) -> jax.stages.Lowered: ...


def init_train_state(
    params: Any,
    tx: optax.GradientTransformation,
    mesh: Mesh | None = None,
    *,
    carried: State | None = None,
) -> TrainState:
    """Step 0; on a mesh the optimizer's state lies where its parameters do. The first train_step
    donates these buffers: params may not be used after it."""
    zero = jnp.zeros((), jnp.int32)
    if mesh is None:
        return TrainState(zero, params, tx.init(params), zero.copy(), carried)
    places = sharding.shardings(mesh, jax.eval_shape(tx.init, params))
    opt_state = jax.jit(tx.init, out_shardings=places)(params)
    step, skipped = place(mesh, P(), zero, zero.copy())  # two buffers: each is donated
    return TrainState(step, params, opt_state, skipped, carried)


def make_train_step(
    graphdef: nnx.GraphDef[Griffin],
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    z_loss: float = 0.0,
    grad_accumulation_steps: int = 1,
    schedule: optax.Schedule | None = None,
    measure: Callable[[Any], Metrics] | None = None,
    observe: Callable[[Any, Any], dict[str, jax.Array]] | None = None,
) -> TrainStep:
    """The jitted step for models of this structure. It donates the train state it is given.

    With a mesh, train state and batches lie on it (init_train_state; sharding.BATCH).
    grad_accumulation_steps: the rows of a batch (of each device) go in so many parts, one after the
    other, whose gradients are added: the same step in less memory.
    frozen: parameters that are used and not trained.
    measure: more metrics, scalars, of the parameters after the step.
    A train state with a carried state goes on from it where a row's first position is above 0;
    gradients end at the batch's edge.

    metrics: float32 scalars `loss` (mean nats per counted target, before the z-loss), `log_z` (mean
    log normaliser of the logits, which the z-loss draws to 0), `grad_norm` (before clipping),
    `param_norm` (after the step), `tokens` (targets counted), `padding` (share of the batch),
    `learning_rate` (where its schedule is given), and int32 `skipped`. A step whose loss or
    gradient norm is not finite leaves parameters, optimizer and carried state as they were and is
    counted; its batch is not seen again. `observed` is what observe(params, updates) makes of the
    parameters before the step and its updates (where it is given): no number, but arrays by name.
    """

    def merge(params: Any, frozen: Any) -> Griffin:
        return nnx.merge(graphdef, params, frozen) if frozen else nnx.merge(graphdef, params)

    def loss_fn(params: Any, frozen: Any, batch: Batch, carried: State | None) -> Any:
        model = merge(params, frozen)
        loss, (metrics, state) = loss_and_state(model, batch, carried, z_loss=z_loss)
        return loss, (metrics, None if carried is None else state)

    run = jax.value_and_grad(loss_fn, has_aux=True)

    def gradients(params: Any, frozen: Any, batch: Batch, carried: State | None) -> Any:
        if grad_accumulation_steps == 1:
            return run(params, frozen, batch, carried)
        tokens = parallel.all_reduce(jnp.sum(batch.weights_BT), *sharding.TOKEN_AXES)
        parts = jax.tree.map(
            lambda x: x.reshape(grad_accumulation_steps, -1, *x.shape[1:]), (batch, carried)
        )

        def add(whole: Any, part: tuple[Batch, State | None]) -> tuple[Any, State | None]:
            (loss, (metrics, state)), grads = run(params, frozen, *part)
            share = metrics["tokens"] / jnp.maximum(tokens, 1)
            means = (loss, metrics["nll"], metrics["log_z"], grads)
            whole = jax.tree.map(lambda a, b: a + (share * b).astype(a.dtype), whole, means)
            return whole, state

        zero = jnp.zeros(())
        start = (zero, zero, zero, jax.tree.map(jnp.zeros_like, params))
        (loss, nll, log_z, grads), state = jax.lax.scan(add, start, parts)
        state = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state)
        return (loss, ({"nll": nll, "tokens": tokens, "log_z": log_z}, state)), grads

    def train_step(
        train_state: TrainState, batch: Batch, frozen: Any = ()
    ) -> tuple[TrainState, Metrics]:
        step, params, opt_state, skipped, carried = train_state
        run = gradients
        if mesh is not None:
            specs = sharding.specs(params)
            state_specs = carried and sharding.state_specs(merge(params, frozen).config)
            scalars = {"nll": P(), "tokens": P(), "log_z": P()}
            run = on_mesh(
                mesh,
                gradients,
                (specs, sharding.specs(frozen), sharding.BATCH, state_specs),
                ((P(), (scalars, state_specs)), specs),
            )
        (loss, (metrics, new_carried)), grads = run(params, frozen, batch, carried)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, new_opt_state = tx.update(grads, opt_state, params)
        observed = None if observe is None else observe(params, updates)
        new_params = optax.apply_updates(params, updates)
        params, opt_state, carried = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (new_params, new_opt_state, new_carried),
            (params, opt_state, carried),
        )
        updates_before, skipped = step - skipped, skipped + (~finite).astype(jnp.int32)
        metrics = {
            "loss": metrics["nll"],
            "log_z": metrics["log_z"],
            "tokens": metrics["tokens"],
            "padding": jnp.mean(batch.positions_BT < 0, dtype=jnp.float32),
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(params),
            "skipped": skipped,
        }
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(updates_before))
        if measure is not None:
            metrics |= measure(params)
        if observed is not None:
            metrics[OBSERVED] = observed
        return TrainState(step + 1, params, opt_state, skipped, carried), metrics

    return cast(TrainStep, jax.jit(train_step, donate_argnums=0))
