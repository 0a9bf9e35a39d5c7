# SPDX-License-Identifier: Apache-2.0
"""Losses of policies, of agents and of language models alike: the clipped surrogate of PPO
(Schulman et al., 2017), and PFO, which holds features still ("No Representation, No Trust", arXiv
2405.00662).

    ratio  = pi(a | s) / pi_old(a | s)
    L_clip = -mean min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)
    L_PFO  = mean (z(s) - z_old(s))^2         z: pre-activations; old: when the data were collected

Legend: M samples, F features.
"""

from math import log

import jax
import jax.numpy as jnp

LOG_RATIO = (log(1e-7), log(1e9))  # the guard of the paper's code
LEAST_STD = 1e-6


def ratio_of(log_ratio_M: jax.Array) -> jax.Array:
    """pi / pi_old, within what float32 holds."""
    return jnp.exp(jnp.clip(log_ratio_M, *LOG_RATIO))


def clipped_loss(
    log_ratio_M: jax.Array, advantage_M: jax.Array, clip: jax.Array | float
) -> jax.Array:
    """[M], to be made smaller."""
    ratio_M = ratio_of(log_ratio_M)
    clipped_M = jnp.clip(ratio_M, 1 - clip, 1 + clip)
    return -jnp.minimum(ratio_M * advantage_M, clipped_M * advantage_M)


def standardised(advantage_M: jax.Array) -> jax.Array:
    """Mean 0, biased standard deviation 1."""
    return (advantage_M - jnp.mean(advantage_M)) / jnp.maximum(jnp.std(advantage_M), LEAST_STD)


def feature_loss(new_MF: jax.Array, old_MF: jax.Array) -> jax.Array:
    """PFO, [M]: the mean over features of the square by which they have moved. (The paper's poster
    has a sum; its code, and with it its beta, this mean.)"""
    return jnp.mean(jnp.square(new_MF - old_MF), -1)
