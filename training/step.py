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

from recurrentgemma import sharding
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharded import on_mesh, place
from training.data.batches import Batch
from training.objective import Metrics, NextTokens, Objective
from training.retention.objective import Carried, Kept, Kickstarted, OfRows, Retention

OBSERVED = "observed"
NOTHING = Kept()


class TrainState(NamedTuple):
    """All that a step changes. `skipped` counts the steps so far whose gradients were not finite.
    `carried` is the model's state after the last batch, for documents that go on in the next; a
    retention.Carried where a teacher reads them, too."""

    step: jax.Array  # int32, how many batches have been seen
    params: Any
    opt_state: optax.OptState
    skipped: jax.Array  # int32
    carried: Any = None


class TrainStep(Protocol):
    """The jitted step: see make_train_step."""

    def __call__(
        self, train_state: TrainState, batch: Any, frozen: Any = (), kept: Kept = NOTHING
    ) -> tuple[TrainState, Metrics]: ...

    def lower(
        self, train_state: Any, batch: Any, frozen: Any = (), kept: Any = NOTHING
    ) -> jax.stages.Lowered: ...


def init_train_state(
    params: Any,
    tx: optax.GradientTransformation,
    mesh: Mesh | None = None,
    *,
    carried: Any = None,
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
    objective: Objective | None = None,
    retention: Retention | None = None,
) -> TrainStep:
    """The jitted step for models of this structure. It donates the train state it is given.

    With a mesh, train state and batches lie on it (init_train_state; sharding.BATCH).
    grad_accumulation_steps: the rows of a batch (of each device) go in so many parts, one after the
    other, whose gradients are added: the same step in less memory.
    frozen: parameters that are used and not trained.
    measure: more metrics, scalars, of the parameters after the step.
    objective: what is minimised, next tokens if it is not said (z_loss is theirs), over batches as
    it has them, of arrays whose first axis is rows and whose second is tokens; where it
    compares with the checkpoint, `kept` has that, or by LoRA `frozen`.
    retention: its loss is added; what that reads is `kept`, and `retention_loss` (without its
    weight) and `retention_weight` are among the metrics.
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

    if objective is None:
        objective = NextTokens(z_loss)
    if retention is not None and retention.config.kickstarts:
        objective = Kickstarted(retention, z_loss)

    def in_parts(objective: Objective) -> Callable:
        """((loss, (metrics, state)), gradients), by grad_accumulation_steps."""

        def loss_fn(
            params: Any, frozen: Any, batch: Batch, carried: Any, start: Any, weight: Any
        ) -> tuple[jax.Array, tuple[Metrics, Any]]:
            return objective(merge(params, frozen), frozen or start, batch, carried, weight)

        run = jax.value_and_grad(loss_fn, has_aux=True)

        def gradients(params: Any, frozen: Any, batch: Batch, carried: Any, *others: Any) -> Any:
            if grad_accumulation_steps == 1:
                return run(params, frozen, batch, carried, *others)
            count = objective.count(batch)
            parts = jax.tree.map(
                lambda x: x.reshape(grad_accumulation_steps, -1, *x.shape[1:]), (batch, carried)
            )

            def add(whole: Any, part: tuple[Batch, Any]) -> tuple[Any, Any]:
                (loss, (metrics, state)), grads = run(params, frozen, *part, *others)
                share = objective.count(part[0]) / jnp.maximum(count, 1)
                tokens = metrics.pop("tokens")
                means = (loss, metrics, grads)
                whole, sums = whole
                whole = jax.tree.map(lambda a, b: a + (share * b).astype(a.dtype), whole, means)
                return (whole, sums + tokens), state

            zero = jnp.zeros(())
            means = dict.fromkeys(objective.names - {"tokens"}, zero)
            zeros = (zero, means, jax.tree.map(jnp.zeros_like, params))
            whole, state = jax.lax.scan(add, (zeros, zero), parts)
            (loss, metrics, grads), tokens = whole
            state = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state)
            return (loss, ({**metrics, "tokens": tokens}, state)), grads

        return gradients

    def laid(objective: Objective, params: Any, frozen: Any, carried: Any, start: Any) -> Callable:
        """in_parts, on the mesh where there is one."""
        if mesh is None:
            return in_parts(objective)
        specs = sharding.specs(params)
        states = carried and sharding.state_specs(merge(params, frozen).config)
        if isinstance(carried, Carried):
            states = Carried(states, states)
        reads = (specs, sharding.specs(frozen), sharding.BATCH, states, sharding.specs(start), P())
        metrics = dict.fromkeys(objective.names, P())
        return on_mesh(mesh, in_parts(objective), reads, ((P(), (metrics, states)), specs))

    def retained(
        params: Any, frozen: Any, kept: Kept, grads: Any, metrics: Metrics, weight: jax.Array
    ) -> tuple[Any, Metrics]:
        """The gradients with those of the retention loss, and its metrics."""
        assert retention is not None
        if retention.config.kickstarts:
            loss = metrics.pop("retention")
        else:
            if retention.config.reads_rows:
                run = laid(OfRows(retention), params, frozen, None, kept.start)
                (loss, _), more = run(params, frozen, kept.batch, None, kept.start, ())
            else:
                loss, more = jax.value_and_grad(retention.of_parameters)(params, kept)
            grads = jax.tree.map(lambda g, h: g + (weight * h).astype(g.dtype), grads, more)
        return grads, {"retention_loss": loss, "retention_weight": weight}

    def train_step(
        train_state: TrainState, batch: Batch, frozen: Any = (), kept: Kept = NOTHING
    ) -> tuple[TrainState, Metrics]:
        step, params, opt_state, skipped, carried = train_state
        updates_before = step - skipped
        weight: Any = () if retention is None else retention.weight(updates_before)
        start = kept.start if objective.compares else ()
        run = laid(objective, params, frozen, carried, start)
        (loss, (metrics, new_carried)), grads = run(params, frozen, batch, carried, start, weight)
        of_retention: Metrics = {}
        if retention is not None:
            grads, of_retention = retained(params, frozen, kept, grads, metrics, weight)
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
        skipped = skipped + (~finite).astype(jnp.int32)
        metrics = {
            "loss": metrics.pop("nll"),
            **metrics,
            "padding": jnp.mean(batch.positions_BT < 0, dtype=jnp.float32),
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(params),
            "skipped": skipped,
            **of_retention,
        }
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(updates_before))
        if measure is not None:
            metrics |= measure(params)
        if observed is not None:
            metrics[OBSERVED] = observed
        return TrainState(step + 1, params, opt_state, skipped, carried), metrics

    return cast(TrainStep, jax.jit(train_step, donate_argnums=0))
