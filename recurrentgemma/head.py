# SPDX-License-Identifier: Apache-2.0
"""What the two ways to make the loss share (losses.py: by parts of the tokens; vocab_parts.py: by
parts of the vocabulary): logits, the loss, and its gradients.

With weights w_t the loss is linear in the log-likelihoods, so its gradient with respect to the
logits, w_t (p - onehot) and the z-loss's part, is known as soon as the logits and log Z are.
"""

from typing import TypeGuard

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.dot import dot_transposed

MOST_CAP = 40.0  # exp(-2 x 40) is a float32, and so is the sum of as many as there are words


def capped_logits(x_MD: jax.Array, embedding_VD: jax.Array, soft_cap: float | None) -> jax.Array:
    """float32 [M, V]."""
    logits_MV = dot_transposed(x_MD, embedding_VD)
    return logits_MV if soft_cap is None else jnp.tanh(logits_MV / soft_cap) * soft_cap


def log_normaliser(logits_MV: jax.Array, soft_cap: float | None) -> jax.Array:
    """log sum exp over these V."""
    if not _bounded(soft_cap):
        return jax.nn.logsumexp(logits_MV, -1)
    return soft_cap + jnp.log(jnp.sum(jnp.exp(logits_MV - soft_cap), -1))


def normaliser_start(tokens: int, soft_cap: float | None) -> tuple[jax.Array, jax.Array]:
    """(top_M, sum_M) of no logits: log Z = top + log sum."""
    top = soft_cap if _bounded(soft_cap) else -jnp.inf
    return jnp.full(tokens, top, jnp.float32), jnp.zeros(tokens, jnp.float32)


def add_to_normaliser(
    top_M: jax.Array, sum_M: jax.Array, logits_MV: jax.Array, soft_cap: float | None
) -> tuple[jax.Array, jax.Array]:
    """`normaliser_start` with some more logits in it."""
    if _bounded(soft_cap):
        return top_M, sum_M + jnp.sum(jnp.exp(logits_MV - soft_cap), 1)
    new_top_M = jnp.maximum(top_M, jnp.max(logits_MV, 1))
    sum_M = sum_M * jnp.exp(top_M - new_top_M)
    return new_top_M, sum_M + jnp.sum(jnp.exp(logits_MV - new_top_M[:, None]), 1)


def _bounded(soft_cap: float | None) -> TypeGuard[float]:
    """Whether the soft cap can stand in for the largest logit, which then need not be looked for:
    the sum is of one pass over the logits, which a TPU takes as it makes them."""
    return soft_cap is not None and soft_cap <= MOST_CAP


def picked(logits_MV: jax.Array, row_M: jax.Array) -> jax.Array:
    """The logit of a row of V for each token. A TPU takes the sum of one and zeros as it makes the
    logits, which then need not lie in memory; elsewhere they do, and it is looked up."""
    if platform.current() != "tpu":
        return jnp.take_along_axis(logits_MV, row_M[:, None], 1)[:, 0]
    here_MV = row_M[:, None] == jnp.arange(logits_MV.shape[1])[None]
    return jnp.sum(jnp.where(here_MV, logits_MV, 0), 1)


def loss(nll_M: jax.Array, log_z_M: jax.Array, weights_M: jax.Array, z_loss: float) -> jax.Array:
    """sum_t w_t (nll_t + z_loss log(Z_t)^2)."""
    return jnp.sum(weights_M * (nll_M + z_loss * jnp.square(log_z_M)))


def logit_gradients(
    logits_MV: jax.Array,
    log_z_M: jax.Array,
    weights_M: jax.Array,
    target: tuple[jax.Array, jax.Array],
    soft_cap: float | None,
    z_loss: float,
) -> jax.Array:
    """Of the loss with respect to the logits before the soft cap, float32 [M, V].

    target: the row of each token's target among these V, and whether it is among them.
    """
    row_M, here_M = target
    scale_M = weights_M * (1 + 2 * z_loss * log_z_M)
    onehot_MV = (row_M[:, None] == jnp.arange(logits_MV.shape[1])[None]) & here_M[:, None]
    d_logits_MV = jnp.exp(logits_MV - log_z_M[:, None]) * scale_M[:, None]
    d_logits_MV -= jnp.where(onehot_MV, weights_M[:, None], 0)
    if soft_cap is not None:
        d_logits_MV *= 1 - jnp.square(logits_MV / soft_cap)
    return d_logits_MV


def backward(z_loss: float, residuals: tuple, gradients: tuple) -> tuple:
    """The gradients of (x, embedding, targets, weights) from what the forward pass has made:
    residuals are d_x, d_embedding, nll and log Z."""
    g, (d_x_MD, d_embedding, nll_M, log_z_M) = gradients[0], residuals

    def scaled(d: jax.Array) -> jax.Array:
        return (g * d.astype(jnp.float32)).astype(d.dtype)

    d_weights_M = g * (nll_M + z_loss * jnp.square(log_z_M))
    return scaled(d_x_MD), scaled(d_embedding), None, d_weights_M
