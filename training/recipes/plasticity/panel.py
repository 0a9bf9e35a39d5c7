# SPDX-License-Identifier: Apache-2.0
"""What is measured of a network beside its loss: units, ranks, norms, the tangent kernel."""

from typing import Any

import jax
import jax.numpy as jnp

from eval.diagnostics.curvature import kernel_rank, tangent_kernel
from eval.diagnostics.representation import (
    dead,
    features_of,
    linearised,
    positive,
    ranks,
    singular_values,
    units_of,
)
from training.recipes.plasticity.learner import Learner, State, rows_of, weights_norm
from training.recipes.rl.heads import decode

KERNEL = 64  # images of the tangent kernel
LEADING = 6  # the first singular value is compared with this one


def units(learner: Learner, state: State, x_NHWC: jax.Array) -> dict[str, jax.Array]:
    """Shares over all hidden units: dead (no output on any image), linearised (positive on every
    image under ReLU; a straight line explains 99% of the output otherwise)."""
    hidden = learner.outputs(state.params, state.stats, x_NHWC).hidden
    relu = learner.choices.network.style.activation == "relu"
    dead_units, linear_units = [], []
    for layer in hidden.values():
        measured = units_of(*rows_of(layer))
        dead_units.append(dead(measured))
        linear_units.append(positive(measured) if relu else linearised(measured))
    return {
        "dead": jnp.mean(jnp.concatenate(dead_units), dtype=jnp.float32),
        "linearised": jnp.mean(jnp.concatenate(linear_units), dtype=jnp.float32),
        "dead_first": jnp.mean(dead_units[0], dtype=jnp.float32),
        "weights_norm": weights_norm(state.params),
    }


def panel(learner: Learner, state: State, x_NHWC: jax.Array) -> dict[str, jax.Array]:
    """`units`, the ranks of the features (NaN of fewer images than features), their leading
    singular values, and the effective rank of the tangent kernel (of the numbers that the head
    predicts, not of its bins) on KERNEL images."""
    features_NF = learner.outputs(state.params, state.stats, x_NHWC).features_BF
    features = features_of(features_NF)
    sigma_D = singular_values(features)

    def outputs(params: Any, x: jax.Array) -> jax.Array:
        outputs_BOK = learner.shaped(learner.outputs(params, state.stats, x).outputs_BO)
        return decode(learner.choices.head, outputs_BOK)

    kernel_NN = tangent_kernel(outputs, state.params, x_NHWC[:KERNEL])
    return {
        **units(learner, state, x_NHWC),
        **ranks(features),
        "feature_norm": features.norm,
        "leading": sigma_D[0] / jnp.maximum(sigma_D[LEADING - 1], 1e-12),
        "kernel_rank": kernel_rank(kernel_NN),
    }
