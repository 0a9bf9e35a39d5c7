# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses: within a caption, and over a batch that may be divided over devices.

Inside of `jax.shard_map` over the mesh of recurrentgemma/sharding.py each device has its rows of
the batch. `gathered_rows` has all of them; its gradient goes back to the device whose rows they
are. A loss is the sum of every device's part (parallel.all_reduce), so that all devices know it,
and gradients of parameters are summed by parallel.gathered, as the language model's are. Outside of
shard_map nothing here communicates.

Legend: B rows of this device, N rows of all devices, L tokens, D width.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from recurrentgemma import parallel, sharding

ROW_AXES = ("data", "fsdp")  # mesh axes that divide the rows of a batch
Averaging = Literal["caption", "batch"]


def unit(x: jax.Array) -> jax.Array:
    """Vectors [..., D] of length 1, float32; 0 stays 0, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-12)


def devices() -> int:
    """Over how many devices the rows are divided."""
    return math.prod(parallel.size(axis) for axis in ROW_AXES)


def gathered_rows(x: jax.Array) -> jax.Array:
    """[B, ...] to [N, ...]: the rows of all devices, in the batch's order."""
    axes = parallel.divided(*ROW_AXES)
    return jax.lax.all_gather(x, axes, axis=0, tiled=True) if axes else x


def first_row(rows: int) -> jax.Array | int:
    """Index in the whole batch of the first of this device's rows."""
    axes = parallel.divided(*ROW_AXES)
    return jax.lax.axis_index(axes) * rows if axes else 0


def rows_before(x: jax.Array) -> jax.Array:
    """[B, ...]: to each row of the batch the one before it, to the first the last. Has no
    gradient."""
    x = jax.lax.stop_gradient(x)
    axes = parallel.divided(*ROW_AXES)
    last = x[-1:]
    if axes:
        count = devices()
        last = jax.lax.ppermute(last, axes, [(i, (i + 1) % count) for i in range(count)])
    return jnp.concatenate([last, x[:-1]])


def mean_of_rows(x_B: jax.Array, weights_B: jax.Array | None = None) -> jax.Array:
    """The mean over the whole batch, weighted where weights are given; equal on all devices."""
    if weights_B is None:
        return parallel.all_reduce(jnp.sum(x_B), *ROW_AXES) / (len(x_B) * devices())
    weight = parallel.all_reduce(jnp.sum(weights_B), *ROW_AXES)
    mean_part = jnp.sum(x_B * weights_B) / jnp.maximum(weight, 1e-9)
    return parallel.all_reduce(mean_part, *ROW_AXES)


def over_batch(logits_BN: jax.Array) -> jax.Array:
    """[B]: the cross-entropy of each row, nats, whose own partner is right."""
    own_B = first_row(len(logits_BN)) + jnp.arange(len(logits_BN))
    log_p_BN = jax.nn.log_softmax(logits_BN.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_p_BN, own_B[:, None], axis=-1)[:, 0]


def global_contrast(image_BD: jax.Array, text_BD: jax.Array, scale: jax.Array) -> jax.Array:
    """CLIP's loss, nats: of cosines times `scale` = 1 / tau, the mean of the cross-entropies over
    texts and over images of the whole batch (2401.09865, equation 1)."""
    image_BD, text_BD = unit(image_BD), unit(text_BD)
    to_texts_BN = scale * image_BD @ gathered_rows(text_BD).T
    to_images_BN = scale * text_BD @ gathered_rows(image_BD).T
    return mean_of_rows(over_batch(to_texts_BN) + over_batch(to_images_BN)) / 2


def within_rows(
    left_BLD: jax.Array,
    right_BLD: jax.Array,
    mask_BL: jax.Array,
    scale: jax.Array,
    *,
    averaging: Averaging = "caption",
) -> jax.Array:
    """Contrast of pairs within each row, nats (2401.09865, equation 6): left l belongs to right l,
    and the row's other entries of the mask are the wrong ones, in both directions.

    averaging: over a caption's tokens and then over captions, as the text has it, or over all
    tokens of the batch at once, as its listing does. A row without tokens counts as 0.
    """
    mask_BL = mask_BL.astype(bool)
    logits_BLL = scale * jnp.einsum("bld,bkd->blk", unit(left_BLD), unit(right_BLD))
    least = jnp.finfo(jnp.float32).min  # not -inf, whose gradient at a padded row is NaN
    nll_BL = jnp.zeros(mask_BL.shape, jnp.float32)
    for logits in (logits_BLL, logits_BLL.swapaxes(1, 2)):
        log_p_BLL = jax.nn.log_softmax(jnp.where(mask_BL[:, None], logits, least), axis=-1)
        nll_BL -= jnp.diagonal(log_p_BLL, axis1=1, axis2=2)
    nll_BL = jnp.where(mask_BL, nll_BL, 0.0) / 2
    tokens_B = jnp.sum(mask_BL, -1).astype(jnp.float32)
    per_caption_B = jnp.sum(nll_BL, -1) / jnp.maximum(tokens_B, 1.0)
    return mean_of_rows(per_caption_B, tokens_B if averaging == "batch" else None)


def masked_mean(x_BLD: jax.Array, mask_BL: jax.Array) -> jax.Array:
    """[B, D]: the mean of the entries of the mask."""
    mask_BL = mask_BL.astype(x_BLD.dtype)
    count_B1 = jnp.maximum(jnp.sum(mask_BL, -1, keepdims=True), 1)
    return jnp.einsum("bld,bl->bd", x_BLD, mask_BL) / count_B1


assert set(ROW_AXES) <= set(sharding.MESH_AXIS_NAMES)
