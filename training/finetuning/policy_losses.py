# SPDX-License-Identifier: Apache-2.0
"""Losses of policies, of agents and of language models alike: the clipped surrogate of PPO
(Schulman et al., 2017), and PFO, which holds features still ("No Representation, No Trust", arXiv
2405.00662); of language models the divergence from a reference and the advantages of GRPO
(DeepSeekMath, arXiv 2402.03300).

    ratio  = pi(a | s) / pi_old(a | s)
    L_clip = -mean min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)
    L_PFO  = mean (z(s) - z_old(s))^2         z: pre-activations; old: when the data were collected
    k3     = pi_ref / pi - 1 - log(pi_ref / pi)

Legend: M samples, F features; B answers, A tokens of an answer.
"""

from math import log
from typing import Literal

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


def divergence(log_prob_M: jax.Array, reference_M: jax.Array) -> jax.Array:
    """k3, [M]: of samples of pi an estimate of KL(pi || reference) whose mean is exact, that is
    never below 0 and varies little (Schulman, 2020). From their log-probabilities."""
    log_ratio_M = jnp.clip(reference_M - log_prob_M, *LOG_RATIO)
    return jnp.expm1(log_ratio_M) - log_ratio_M


def group_advantages(reward_B: jax.Array, size: int, *, divide: bool) -> jax.Array:
    """GRPO's, [B]: the rewards of each group of `size` answers less their mean; divide: over their
    biased standard deviation, too. Of a group of equal rewards they are 0."""
    groups_GS = reward_B.reshape(-1, size)
    advantage_GS = groups_GS - jnp.mean(groups_GS, 1, keepdims=True)
    if divide:
        advantage_GS /= jnp.maximum(jnp.std(groups_GS, 1, keepdims=True), LEAST_STD)
    return advantage_GS.reshape(-1)


def standardised_where(
    advantage_BA: jax.Array, real_BA: jax.Array, *, divide: bool = True
) -> jax.Array:
    """`standardised` over the tokens that are real; divide: by the standard deviation, too."""
    mean = mean_where(advantage_BA, real_BA)
    centred_BA = advantage_BA - mean
    if not divide:
        return centred_BA
    std = jnp.sqrt(mean_where(jnp.square(centred_BA), real_BA))
    return centred_BA / jnp.maximum(std, LEAST_STD)


def mean_where(
    x_BA: jax.Array, real_BA: jax.Array, loss_mean: Literal["answer", "token"] = "token"
) -> jax.Array:
    """The mean over the tokens that are real, or (loss_mean "answer") over answers of the mean over
    each one's."""
    x_BA, real_BA = jnp.where(real_BA, x_BA, 0), real_BA.astype(jnp.float32)
    if loss_mean == "token":
        return jnp.sum(x_BA) / jnp.maximum(jnp.sum(real_BA), 1)
    return jnp.mean(jnp.sum(x_BA, -1) / jnp.maximum(jnp.sum(real_BA, -1), 1))
