# SPDX-License-Identifier: Apache-2.0
"""The interventions, as pure functions of parameters and optimizer states.

Parameters are dictionaries as training/recipes/vision makes them: layers by name, `head` the last.
Heads over bins are in rl/heads.py; layer norm and activations are choices of the networks.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from training.recipes.vision.mlp import Reader

Params = Any
POWER_ITERATIONS = 5


def adam(
    learning_rate: jax.Array | float,
    *,
    b1: jax.Array | float = 0.9,
    b2: jax.Array | float = 0.999,
    eps: jax.Array | float = 1e-8,
    eps_root: jax.Array | float = 0.0,
    decay: jax.Array | float = 0.0,
) -> optax.GradientTransformation:
    """u = -rate (m / (sqrt(v + eps_root) + eps) + decay w), m and v bias-corrected.

    The paper's rule (2303.01486, section 3) has both epsilons and its readers disagree on which is
    raised to 1e-3: inside of the root it is a floor of 0.03 under the denominator, outside one of
    0.001. decay is decoupled, of every parameter.
    """
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps=eps, eps_root=eps_root),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def l2(params: Params) -> jax.Array:
    """The sum of squares of every parameter: 2402.18762 does not say that any is left out."""
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params)), jnp.zeros(()))


def feature_penalty(features_BF: jax.Array) -> jax.Array:
    """The mean square norm of what the head reads (the soft penalty of 2402.18762)."""
    return jnp.mean(jnp.sum(jnp.square(features_BF), -1))


def reset_head(params: Params, fresh: Params) -> Params:
    """A newly initialised last layer."""
    return {**params, "head": fresh["head"]}


def shrink_and_perturb(
    params: Params, fresh: Params, *, shrink: jax.Array | float, perturb: jax.Array | float
) -> Params:
    """shrink w + perturb w', w' newly initialised (Ash and Adams, 2020)."""
    return jax.tree.map(lambda w, new: shrink * w + perturb * new, params, fresh)


def spectrally_normalised(params: Params) -> Params:
    """The first linear layer's kernel over its largest singular value (2303.01486 normalises that
    layer alone); the singular vectors are constants for the gradient (Miyato et al., 2018)."""
    layer = params["hidden_0"]
    name = "conv" if "conv" in layer else "linear"
    kernel = layer[name]["kernel"]
    matrix = kernel.reshape(-1, kernel.shape[-1])
    right = jnp.ones(matrix.shape[1]) / matrix.shape[1] ** 0.5
    left = jnp.zeros(matrix.shape[0])
    for _ in range(POWER_ITERATIONS):
        left = _unit(matrix @ right)
        right = _unit(left @ matrix)
    left, right = jax.lax.stop_gradient((left, right))
    sigma = left @ matrix @ right
    scaled = {**layer[name], "kernel": kernel / jnp.maximum(sigma, 1e-6)}
    return {**params, "hidden_0": {**layer, name: scaled}}


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


def recycled(
    params: Params,
    opt_state: Any,
    fresh: Params,
    dormant: Mapping[str, jax.Array],
    readers: Mapping[str, Reader],
    tx: optax.GradientTransformation,
) -> tuple[Params, Any]:
    """ReDo (Sokar et al., 2023): what a dormant unit reads is newly initialised, what reads it is
    0, and the optimizer's moments of both are 0.

    dormant: bool [units] of each hidden layer. readers: vision.mlp.readers. Where a weight joins
    two dormant units it is 0: recycling a unit that is dead never changes what the network does.
    """
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params)
    incoming, outgoing = dict(nothing), dict(nothing)
    for layer, reader in readers.items():
        units = dormant[layer]
        incoming[layer] = jax.tree.map(
            lambda mask, units=units: jnp.broadcast_to(units, mask.shape), nothing[layer]
        )
        rows = jnp.tile(units, reader.rows_per_unit)[:, None]
        outgoing[reader.layer] = jax.tree_util.tree_map_with_path(
            lambda path, mask, rows=rows: (
                jnp.broadcast_to(rows, mask.shape) if path[-1].key == "kernel" else mask
            ),
            nothing[reader.layer],
        )
    params = jax.tree.map(jnp.where, incoming, fresh, params)
    params = jax.tree.map(lambda mask, w: jnp.where(mask, 0, w), outgoing, params)
    touched = jax.tree.map(jnp.logical_or, incoming, outgoing)
    opt_state = optax.tree.map_params(
        tx, lambda moment, mask: jnp.where(mask, 0, moment), opt_state, touched
    )
    return params, opt_state
