# SPDX-License-Identifier: Apache-2.0
"""One optimizer step of image-text pretraining as a pure function, on one device or a mesh.

    model = ImageText(config, rngs=nnx.Rngs(0))
    graphdef, state = init_state(model, objective, settings)
    step = make_step(graphdef, objective, settings)
    state, metrics = step(state, (batch,))

The paper takes one batch of each of its three data sets and sums their gradients (appendix D.4): a
step takes a tuple of batches. Each is contrasted within itself.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from recurrentgemma import parallel, sharding
from recurrentgemma.errors import UserError
from recurrentgemma.sharded import on_mesh, place
from training.optim import promoting
from training.recipes.sparc.batch import PairBatch
from training.recipes.sparc.method import mismatch_gap
from training.recipes.sparc.objectives import Objective
from training.recipes.sparc.text import DTYPE, GriffinTextConfig
from training.recipes.sparc.towers import ImageText

ROWS = sharding.ROWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """AdamW with a linear warm-up and a cosine to 0. largest_scale: 1 / tau is held to it, CLIP's
    bound. language_weight: of a Griffin's own loss on the captions, a third term. gap: log the
    mismatch gap, which costs two more local losses, forward. Kernels of linear layers decay."""

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    largest_scale: float = 100.0
    language_weight: float = 0.0
    gap: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup_steps < self.steps:
            raise UserError(
                f"steps={self.steps}, warmup_steps={self.warmup_steps}: expected fewer warm-up "
                "steps than steps"
            )
        for name in ("learning_rate", "largest_scale"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: expected more than 0")
        for name in ("weight_decay", "language_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: expected 0 or more")


def paper_settings(
    *, large: bool = False, learning_rate: float = 7e-4, weight_decay: float = 0.1
) -> Settings:
    """The paper's (appendix D.1): 200,000 steps, 250,000 of L/14, warm-up 2,500. It sweeps the
    learning rate over 7e-4, 9e-4 and 1.1e-4 (as printed) and weight decay over 0.1, 0.2 and 0.3,
    and does not name its choice; the first of each is taken."""
    return Settings(
        steps=250_000 if large else 200_000,
        learning_rate=learning_rate,
        warmup_steps=2_500,
        weight_decay=weight_decay,
    )


class PairState(NamedTuple):
    """params: {"model", "objective"}. step: int32."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState


Metrics = dict[str, jax.Array]
Step = Callable[[PairState, Sequence[PairBatch]], tuple[PairState, Metrics]]


def make_tx(settings: Settings) -> optax.GradientTransformation:
    """AdamW, whose schedule is learning_rate_at."""
    return promoting(
        optax.adamw(
            lambda count: learning_rate_at(settings, count),
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=_decays,
        )
    )


def learning_rate_at(settings: Settings, step: Any) -> jax.Array:
    """Linear from 0 over the warm-up, then a cosine to 0 at the last step."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, settings.warmup_steps, settings.steps
    )
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(schedule(step), jnp.float32)


def init_state(
    model: ImageText,
    objective: Objective,
    settings: Settings,
    *,
    mesh: Mesh | None = None,
    seed: int = 0,
) -> tuple[nnx.GraphDef[ImageText], PairState]:
    """The model's structure and the state before the first step; on the mesh where one is given.
    seed: of the objective's own parameters. The first step donates the state's arrays.

    Raises:
      UserError: the mesh divides a sequence or channels (check_mesh), or does not divide a Griffin.
    """
    graphdef, model_params = nnx.split(model, nnx.Param)
    own = objective.init(jax.random.key(seed), model.config.width)
    params = {"model": model_params, "objective": own}
    if mesh is not None:
        check_mesh(mesh)
        if isinstance(model.config.text, GriffinTextConfig):
            sharding.check_model(model.config.text.griffin, mesh.shape)
        params = jax.device_put(params, sharding.shardings(mesh, params))
    # Copies: two towers may begin with one checkpoint's arrays, and a step donates each once.
    params = jax.tree.map(jnp.copy, params)
    tx = make_tx(settings)
    places = None
    zero = jnp.zeros((), jnp.int32)
    if mesh is not None:
        places = sharding.shardings(mesh, jax.eval_shape(tx.init, params))
        (zero,) = place(mesh, P(), zero)
    opt_state = jax.jit(tx.init, out_shardings=places)(params)
    return graphdef, PairState(zero, params, opt_state)


def place_batch(mesh: Mesh, batch: PairBatch) -> PairBatch:
    """The batch with its rows over the mesh. Raises UserError: they do not divide."""
    sharding.check_batch(len(batch.ids_BL), batch.ids_BL.shape[1], mesh.shape)
    return PairBatch(*place(mesh, ROWS, *batch))


def check_mesh(mesh: Mesh) -> None:
    """Raises UserError: the mesh has axes that this step does not use."""
    for axis in ("sequence", "tensor"):
        if mesh.shape[axis] > 1:
            raise UserError(
                f"mesh axis {axis}={mesh.shape[axis]}: image-text training divides rows alone; use "
                "data and fsdp"
            )


def make_step(
    graphdef: nnx.GraphDef[ImageText],
    objective: Objective,
    settings: Settings,
    *,
    mesh: Mesh | None = None,
) -> Step:
    """The jitted step (state, batches) -> (state, metrics); it donates the state.

    With a mesh, state and batches lie on it (init_state, place_batch), and the contrast is over the
    rows of all devices: the same step as on one.

    metrics, float32 scalars, means over the batches: `loss`; each of the objective's terms without
    its weight, and `language` where it is trained, nats; `gap`, nats (method.mismatch_gap);
    `scale`, 1 / tau after the step; `grad_norm`; `learning_rate`.
    """
    tx = make_tx(settings)

    def loss_fn(params: Any, batch: PairBatch) -> tuple[jax.Array, Metrics]:
        return pair_loss(
            nnx.merge(graphdef, params["model"]), objective, settings, params["objective"], batch
        )

    gradients = jax.value_and_grad(loss_fn, has_aux=True)

    def of_batch(params: Any, batch: PairBatch) -> Any:
        if mesh is None:
            return gradients(params, batch)
        specs = sharding.specs(params)
        whole = P()
        divided = on_mesh(mesh, gradients, (specs, ROWS), ((whole, whole), specs))
        return divided(params, batch)

    def step(state: PairState, batches: Sequence[PairBatch]) -> tuple[PairState, Metrics]:
        results = [of_batch(state.params, batch) for batch in batches]
        metrics = [{"loss": loss, **terms} for (loss, terms), _ in results]
        mean = jax.tree.map(lambda *values: sum(values[1:], values[0]) / len(values), *metrics)
        grads = jax.tree.map(lambda *values: sum(values[1:], values[0]), *[g for _, g in results])
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        updated: Any = optax.apply_updates(state.params, updates)
        log_scale = updated["model"]["log_scale"]
        held = jnp.minimum(log_scale[...], math.log(settings.largest_scale))
        updated["model"]["log_scale"] = log_scale.replace(held)
        if mesh is not None:
            places = sharding.shardings(mesh, updated)
            updated = jax.lax.with_sharding_constraint(updated, places)
        return PairState(state.step + 1, updated, opt_state), {
            **mean,
            "scale": jnp.exp(held),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": learning_rate_at(settings, state.step),
        }

    return jax.jit(step, donate_argnums=0)


def pair_loss(
    model: ImageText,
    objective: Objective,
    settings: Settings,
    objective_params: Any,
    batch: PairBatch,
) -> tuple[jax.Array, Metrics]:
    """The loss of a batch and what make_step logs of it; within shard_map, of all devices'."""
    embeddings, features = model(batch)
    scale = model.scale()
    own = jax.tree.map(lambda w: parallel.gather(w, None, DTYPE), objective_params)
    loss, metrics = objective(embeddings, scale, own)
    if settings.language_weight > 0:
        metrics["language"] = model.language_loss(features, batch)
        loss = loss + settings.language_weight * metrics["language"]
    if settings.gap:
        metrics["gap"] = mismatch_gap(
            embeddings, scale, weigh=objective.weigh, averaging=objective.averaging
        )
    return loss, metrics


def _decays(params: Any) -> Any:
    """Which parameters decay: weights of linear layers, of a Griffin as well."""

    def one(path: tuple[Any, ...], leaf: Any) -> bool:
        del leaf
        return sharding.parameter_name(path).endswith(("kernel", "weight"))

    return jax.tree_util.tree_map_with_path(one, params)
