# SPDX-License-Identifier: Apache-2.0
"""The weighted loss where the embedding is divided over devices: by parts of the vocabulary.

losses.py takes some tokens at a time and adds up the gradient of the whole embedding in float32,
which would be the largest array of a training step by far. Here the loop goes over the vocabulary:
a part of the embedding is gathered, used for all of this device's tokens, and its gradient is
scattered at once, so that no device ever holds an embedding or its gradient whole. A first loop
finds the normalisers, a second one the gradients; the price is that logits are computed twice, a
third more of the head's arithmetic.
"""

import functools

import jax
import jax.numpy as jnp

from kernels.dot import dot, dot_over_rows
from recurrentgemma import head, parallel, sharding


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def weighted_loss(
    x_MD: jax.Array,
    embedding_VP: jax.Array,
    targets_M: jax.Array,
    weights_M: jax.Array,
    soft_cap: float | None,
    z_loss: float,
    elements: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """sum_t w_t (nll_t + z_loss log(Z_t)^2), and nll and log Z, which carry no gradient.

    Args:
      x_MD: this device's tokens, after the final norm.
      embedding_VP: this device's part of the embedding: of V over tensor, of D over fsdp and
        sequence. Its gradient is that part's, summed over all tokens.
      targets_M: ids in the whole vocabulary.
      weights_M: float32.
      soft_cap: of the logits, or None.
      z_loss: coefficient.
      elements: logits held at a time, at most, if the vocabulary can be divided so far.
    """
    parts_NVP = cut(embedding_VP, x_MD.shape[0], elements)
    nll_M, log_z_M = _likelihoods(x_MD, parts_NVP, targets_M, soft_cap)
    return head.loss(nll_M, log_z_M, weights_M, z_loss), nll_M, log_z_M


def cut(embedding_VP: jax.Array, tokens: int, elements: int) -> jax.Array:
    """The embedding cut into the fewest equal parts of the vocabulary that are small enough."""
    rows = embedding_VP.shape[0]
    fewest = -(-tokens * rows // elements)
    count = next((n for n in range(max(fewest, 1), rows) if rows % n == 0), rows)
    return embedding_VP.reshape(count, rows // count, -1)


def whole(part_VP: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A part of the vocabulary with all of D."""
    axes = parallel.divided(*sharding.PARAMETER_AXES)
    return jax.lax.all_gather(part_VP.astype(dtype), axes, axis=1, tiled=True)


def _local(targets_M: jax.Array, index: jax.Array, count: int, rows: int):
    """(row in part `index` of this device's part, whether the target lies there)."""
    row_M, here_M = parallel.local_rows(targets_M, count * rows)
    row_M = row_M - index * rows
    return jnp.clip(row_M, 0, rows - 1), here_M & (row_M >= 0) & (row_M < rows)


def scatter(d_part_VD: jax.Array) -> jax.Array:
    """The gradient of `whole`: summed over all tokens, to each device its part of D."""
    axes = parallel.divided(*sharding.PARAMETER_AXES)
    others = tuple(a for a in parallel.divided(*sharding.TOKEN_AXES) if a not in axes)
    d_part_VP = jax.lax.psum_scatter(d_part_VD, axes, scatter_dimension=1, tiled=True)
    return jax.lax.psum(d_part_VP, others) if others else d_part_VP


def _likelihoods(x_MD, parts_NVP, targets_M, soft_cap) -> tuple[jax.Array, jax.Array]:
    """(nll, log Z) of every token, the normaliser gathered from part to part."""
    count, rows, _ = parts_NVP.shape

    def add(carry, indexed):
        (top_M, sum_M, target_M), (index, part_VP) = carry, indexed
        logits_MV = head.capped_logits(x_MD, whole(part_VP, x_MD.dtype), soft_cap)
        top_M, sum_M = head.add_to_normaliser(top_M, sum_M, logits_MV, soft_cap)
        row_M, here_M = _local(targets_M, index, count, rows)
        logit_M = head.picked(logits_MV, row_M)
        return (top_M, sum_M, target_M + jnp.where(here_M, logit_M, 0)), None

    top_M, zero_M = head.normaliser_start(x_MD.shape[0], soft_cap)
    start = (top_M, zero_M, zero_M)
    (top_M, sum_M, target_M), _ = jax.lax.scan(add, start, (jnp.arange(count), parts_NVP))
    log_z_M = top_M + jnp.log(sum_M)
    if parallel.size("tensor") > 1:
        top_M = parallel.largest(log_z_M, "tensor")
        log_z_M = top_M + jnp.log(parallel.all_reduce(jnp.exp(log_z_M - top_M), "tensor"))
        target_M = parallel.all_reduce(target_M, "tensor")
    return log_z_M - target_M, log_z_M


def _fwd(x_MD, embedding_VP, targets_M, weights_M, soft_cap, z_loss, elements):
    parts_NVP = cut(embedding_VP, x_MD.shape[0], elements)
    count, rows, _ = parts_NVP.shape
    nll_M, log_z_M = _likelihoods(x_MD, parts_NVP, targets_M, soft_cap)

    def add(d_x_MD, indexed):
        index, part_VP = indexed
        part_VD = whole(part_VP, x_MD.dtype)
        logits_MV = head.capped_logits(x_MD, part_VD, soft_cap)
        target = _local(targets_M, index, count, rows)
        d_logits_MV = head.logit_gradients(
            logits_MV, log_z_M, weights_M, target, soft_cap, z_loss
        ).astype(x_MD.dtype)
        d_part_VP = scatter(dot_over_rows(d_logits_MV, x_MD))
        return d_x_MD + dot(d_logits_MV, part_VD), d_part_VP

    zero_MD = jnp.zeros(x_MD.shape, jnp.float32)
    d_x_MD, d_parts_NVP = jax.lax.scan(add, zero_MD, (jnp.arange(count), parts_NVP))
    loss = head.loss(nll_M, log_z_M, weights_M, z_loss)
    d_embedding_VP = d_parts_NVP.reshape(embedding_VP.shape).astype(embedding_VP.dtype)
    residuals = (d_x_MD.astype(x_MD.dtype), d_embedding_VP, nll_M, log_z_M)
    return (loss, nll_M, log_z_M), residuals


def _bwd(soft_cap, z_loss, elements, residuals, gradients):
    return head.backward(z_loss, residuals, gradients)


weighted_loss.defvjp(_fwd, _bwd)
