# SPDX-License-Identifier: Apache-2.0
"""Maxwell's Demon at Work (arXiv 2403.07688, "DemP") and what it is compared to, as functions of
arrays.

    dead_U      sum of a unit's activations over examples and positions is <= 0, on every batch
    loss        cross-entropy + lambda f(t) sum |gamma|, gamma: scales of normalisation
    noise       theta <- theta + sigma f(t) N(0, I) where the gradient is not 0, after the optimizer
    f           the one-cycle of training/pruning/schedules.py, which the language model shares
    removal     of dead units from parameters, statistics and moments: widths.py

With a ReLU a dead unit is exactly zero on all the data, and its removal changes nothing. With
others (leaky ReLU, GELU, ...) the paper has the same test, and it is none of being zero.

Departures from the authors' code: it adds noise where |gradient| >= 0, which is everywhere; the
text, and we, where it is not 0. We look at the gradient of the data's loss: that of the penalty on
gamma would call every dead unit's gamma alive.

Legend: B batch, U units, S seeds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.pruning.widths import Axis, scaled
from training.recipes.vision.layers import Hidden

Shared = Mapping[str, tuple[Axis, ...]]
Masks = Mapping[str, jax.Array]  # by width: 1 where the unit stays, else 0


def activation_sums(hidden: Mapping[str, Hidden]) -> dict[str, jax.Array]:
    """Layer -> the sum of each unit's activations [U], over examples and places."""
    return {name: layer.a.sum(tuple(range(layer.a.ndim - 1))) for name, layer in hidden.items()}


def dead_units(
    sums: Mapping[str, jax.Array], layers: Mapping[str, list[str]]
) -> dict[str, jax.Array]:
    """Width -> which of its units have a sum of activations <= 0 on a batch, in all its layers. A
    unit is dead where that holds for every batch of the data."""
    return {
        width: jnp.all(jnp.stack([sums[name] <= 0 for name in names]), 0)
        for width, names in layers.items()
    }


def scale_paths(shared: Shared) -> set[tuple[str, ...]]:
    """The normalisation scales of the units that may be removed.

    Raises UserError: there are none, so that there is nothing to penalise.
    """
    paths = {axis.path for axes in shared.values() for axis in axes if axis.path[-1] == "scale"}
    if not paths:
        raise UserError(
            "the penalty is on the scales of normalisation, and this network's units have none: "
            "choose Style(norm='batch')"
        )
    return paths


def penalty_gradient(params: Any, paths: set[tuple[str, ...]]) -> Any:
    """Of sum |gamma| over the scales: their signs, and zero for all other parameters."""

    def sign(path: Any, array: jax.Array) -> jax.Array:
        names = tuple(str(key.key) for key in path)
        return jnp.sign(array) if names in paths else jnp.zeros_like(array)

    return jax.tree_util.tree_map_with_path(sign, params)


def live_noise(grads: Any, key: jax.Array, deviation: jax.Array) -> Any:
    """Normal noise for every parameter whose gradient is not zero."""
    leaves, structure = jax.tree.flatten(grads)
    noise = [
        jnp.where(grad != 0, deviation * jax.random.normal(k, grad.shape, grad.dtype), 0)
        for k, grad in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noise)


def kept_units(
    live: Mapping[str, np.ndarray], *, needed: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Width -> the units that stay, [S, K] of live [S, U].

    They are the living ones of each seed, and as many dead ones as make all seeds keep the same
    number, so that they stay one program. Of one seed exactly the living ones stay.
    A width that is not needed (another way leads around it) keeps one unit.
    Raises UserError: no unit of a needed width is alive.
    """
    keep = {}
    for name, live_SU in live.items():
        counts_S = live_SU.sum(1)
        if counts_S.min() == 0 and needed(name):
            raise UserError(
                f"{name} has no living unit left, so that nothing gets through the network: lower "
                "the penalty, or the learning rate"
            )
        count = max(1, int(counts_S.max()))
        order_SU = np.argsort(~live_SU, 1, kind="stable")[:, :count]
        keep[name] = np.sort(order_SU, 1)
    return keep


def magnitudes(params: Any, shared: Shared) -> dict[str, jax.Array]:
    """Width -> the norm of all kernels' weights that make each unit."""
    flat = _flat(params)
    norms = {}
    for name, axes in shared.items():
        squares = []
        for axis in axes:
            if axis.path in flat and not axis.reads and flat[axis.path].ndim > 1:
                array = flat[axis.path]
                others = tuple(i for i in range(array.ndim) if i != array.ndim + axis.axis)
                squares.append(jnp.square(array).sum(others))
        norms[name] = jnp.sqrt(sum(squares[1:], squares[0]))
    return norms


def smallest_out(scores: Mapping[str, Any], density: float) -> dict[str, np.ndarray]:
    """Masks that keep this part of each width's units [S, U], those of the highest scores."""
    masks = {}
    for name, score_SU in scores.items():
        score_SU = np.asarray(score_SU)
        count = max(1, round(density * score_SU.shape[1]))
        order_SU = np.argsort(-score_SU, 1, kind="stable")[:, :count]
        mask_SU = np.zeros(score_SU.shape, bool)
        np.put_along_axis(mask_SU, order_SU, True, 1)
        masks[name] = mask_SU
    return masks


def smallest_out_everywhere(scores: Mapping[str, Any], density: float) -> dict[str, np.ndarray]:
    """Masks that keep this part of all units together, those of the highest scores over all widths
    [S, U]; one unit of each width at least."""
    joined_SU = np.concatenate([np.asarray(score) for score in scores.values()], 1)
    count = max(1, round(density * joined_SU.shape[1]))
    least_S = -np.sort(-joined_SU, 1)[:, count - 1 : count]
    masks = {}
    for name, score_SU in scores.items():
        score_SU = np.asarray(score_SU)
        masks[name] = (score_SU >= least_S) | (score_SU == score_SU.max(1, keepdims=True))
    return masks


def snap_scores(
    loss: Callable[[Any], jax.Array], params: Any, shared: Shared, masks: Masks
) -> dict[str, jax.Array]:
    """SNAP (Verdenius et al., arXiv 2006.00896): |dL / d gate| of each unit at the masks."""
    grads = jax.grad(lambda gates: loss(scaled(params, shared, gates)))(_ones(masks))
    return {name: jnp.abs(grad) * masks[name] for name, grad in grads.items()}


def crop_scores(
    loss: Callable[[Any], jax.Array], params: Any, shared: Shared, masks: Masks
) -> dict[str, jax.Array]:
    """EarlyCroP's structured form (Rachwan et al., arXiv 2206.10451): |gate (H g)| of each unit, by
    which the gradient's norm over the gates changes without it, to first order."""

    def gradient(gates: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return jax.grad(lambda gates: loss(scaled(params, shared, gates)))(gates)

    gates = _ones(masks)
    grads = {name: grad * masks[name] for name, grad in gradient(gates).items()}
    _, product = jax.jvp(gradient, (gates,), (grads,))
    return {name: jnp.abs(value) * masks[name] for name, value in product.items()}


def _ones(masks: Masks) -> dict[str, jax.Array]:
    return {name: mask.astype(jnp.float32) for name, mask in masks.items()}


def _flat(params: Any) -> dict[tuple[str, ...], jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {tuple(str(key.key) for key in path): leaf for path, leaf in leaves}
