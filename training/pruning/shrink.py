# SPDX-License-Identifier: Apache-2.0
"""An optimizer that also draws the units of the MLPs to zero: group lasso by a proximal step, and
noise on the units that are alive, both by a schedule.

A unit j of an MLP is down[:, j] gelu(gate[j] x + b_j) (up[j] x + c_j): three weights and two
biases, which are one group w_j of p = 3 D + 2 numbers. After each step of the optimizer

    w_j <- w_j max(0, 1 - t / |w_j|),    t = learning_rate penalty f(step) sqrt(p)

which is the proximal step of penalty sqrt(p) sum_j |w_j| (Yuan and Lin 2006): a group becomes
exactly zero. There every gradient of the unit is zero; it is kept there from the momentum of the
steps before, too.

DemP (arXiv 2403.07688) has units that die as those of a ReLU do, by an L1 loss on the scales of
normalisation. A Griffin's MLP has neither such scales nor a nonlinearity with a dead side: the
group lasso is our transfer. f is DemP's one-cycle, for the penalty and for the noise, which is
added after the optimizer to weights whose gradient is not zero.

Legend: D width, F units; a leading axis of stacked layers may precede both.
"""

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recurrentgemma.config import GriffinConfig
from recurrentgemma.params import Flat, by_path, canonical_names, is_stacked
from training.pruning.config import PruneConfig
from training.pruning.schedules import penalty_schedule

UNIT_AXES = {  # of an MLP's arrays, counted from the end: which axis has the units
    "ffw_gate/weight": -2,
    "ffw_gate/bias": -1,
    "ffw_up/weight": -2,
    "ffw_up/bias": -1,
    "ffw_down/weight": -1,
}
"""All that a unit is made of."""


class ShrinkState(NamedTuple):
    """Beside the optimizer's own state."""

    count: jax.Array  # int32, updates so far
    optimizer: optax.OptState


def shrinking(
    tx: optax.GradientTransformation,
    config: PruneConfig,
    model: GriffinConfig,
    *,
    steps: int,
    learning_rate: optax.Schedule,
    seed: int,
) -> optax.GradientTransformation:
    """`tx`, whose steps also draw the units of the MLPs to zero. Parameters are an nnx.State of a
    Griffin; `steps` are those of the run, of which config.span is a part."""
    factor = penalty_schedule(config.schedule, round(config.span * steps))

    def init(params: Any) -> ShrinkState:
        return ShrinkState(jnp.zeros((), jnp.int32), tx.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grads = by_path(updates)
        moved: Any
        moved, optimizer = tx.update(updates, state.optimizer, params)
        strength = jnp.asarray(factor(state.count))
        before, flat = by_path(params), by_path(moved)
        if config.noise:
            key = jax.random.fold_in(jax.random.key(seed), state.count)
            drawn = live_noise(grads, model, key, config.noise * strength)
            flat = {path: flat[path] + drawn.get(path, jnp.zeros_like(flat[path])) for path in flat}
        threshold = learning_rate(state.count) * config.penalty * strength
        for prefix in mlps(before):
            after = {name: before[prefix + name] + flat[prefix + name] for name in UNIT_AXES}
            norm_F, size = unit_norms(after)
            safe_F = jnp.where(norm_F > 0, norm_F, 1)
            scale_F = jnp.maximum(0, 1 - threshold * jnp.sqrt(float(size)) / safe_F)
            was_zero_F = unit_norms({name: before[prefix + name] for name in UNIT_AXES})[0] == 0
            scale_F = jnp.where(was_zero_F, 0, scale_F)
            for name, axis in UNIT_AXES.items():
                scale = _along(scale_F.astype(after[name].dtype), axis, after[name].ndim)
                # p + (0 - p) is exactly 0, so a unit whose scale is 0 is exactly zero.
                flat[prefix + name] = after[name] * scale - before[prefix + name]
        moved = jax.tree.unflatten(jax.tree.structure(moved), list(flat.values()))
        return moved, ShrinkState(state.count + 1, optimizer)

    return optax.GradientTransformation(init, update)


def live_noise(
    grads: Flat, model: GriffinConfig, key: jax.Array, deviation: jax.Array
) -> dict[str, jax.Array]:
    """Normal noise for each array of an MLP's units, by path: zero where the gradient is zero.

    It follows from the key and the canonical name, however the layers are held.
    """
    noise: dict[str, jax.Array] = {}
    for prefix in mlps(grads):
        for name in UNIT_AXES:
            path = prefix + name
            keys = [
                jax.random.fold_in(key, zlib.crc32(canonical.encode()))
                for canonical in canonical_names(model, path)
            ]
            grad = grads[path]
            layers = grad if is_stacked(path) else [grad]
            drawn = [
                jax.random.normal(k, g.shape, jnp.float32)
                for k, g in zip(keys, layers, strict=True)
            ]
            normal = jnp.stack(drawn) if is_stacked(path) else drawn[0]
            noise[path] = jnp.where(grad != 0, deviation * normal, 0).astype(grad.dtype)
    return noise


def unit_norms(arrays: Flat) -> tuple[jax.Array, int]:
    """|w_j| of each unit [..., F], in float32, and of how many numbers it is made.

    Arrays are by the names of UNIT_AXES.
    """
    squares, size = [], 0
    for name, axis in UNIT_AXES.items():
        square = jnp.square(arrays[name].astype(jnp.float32))
        if name.endswith("weight"):
            other = -1 if axis == -2 else -2
            size += arrays[name].shape[other]
            square = square.sum(other)
        else:
            size += 1
        squares.append(square)
    return jnp.sqrt(sum(squares[1:], squares[0])), size


def measure_zero_units(params: Any) -> dict[str, jax.Array]:
    """Metrics of a Griffin's parameters: `zero_units`, the share of the MLPs' units that are
    exactly zero."""
    flat = by_path(params)
    norms = [
        unit_norms({name: flat[prefix + name] for name in UNIT_AXES})[0].reshape(-1)
        for prefix in mlps(flat)
    ]
    return {"zero_units": jnp.mean(jnp.concatenate(norms) == 0, dtype=jnp.float32)}


def mlps(flat: Flat) -> Iterator[str]:
    """What stands before the names of UNIT_AXES: `blocks/0/mlp_block/` and so on."""
    last = next(iter(UNIT_AXES))
    return (path.removesuffix(last) for path in flat if path.endswith(f"/{last}"))


def _along(values_F: jax.Array, axis: int, ndim: int) -> jax.Array:
    """[..., F] shaped to go beside an array in which F is that axis."""
    if axis == -1 and values_F.ndim < ndim:
        return values_F[..., None, :]
    return values_F[..., None] if values_F.ndim < ndim else values_F
