# SPDX-License-Identifier: Apache-2.0
"""Objectives that compare every image with every caption of the batch, patch by word: FILIP (Yao et
al., 2111.07783), PACL (Mukhoti et al., 2212.04994) and GLoRIA (Huang et al., ICCV 2021).

A score is a function of one image and one caption. Scores of all pairs take memory for N^2 P L
similarities, so they are computed for some captions or images at a time, and again in the backward
pass. On several devices each scores its own images with all captions, and its own captions with all
images.

Departures: the temperature of the contrast is learned in all three, as SPARC's comparison has it.
FILIP drops no tokens. PACL's patches pass through the same adapter as SPARC's. GLoRIA's contrast of
scores has no third constant temperature.

Legend: B rows of this device, N of all, P patches, L tokens, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from training.recipes.sparc.contrast import devices, gathered_rows, mean_of_rows, over_batch, unit
from training.recipes.sparc.embeddings import Embeddings

GLORIA_ATTENTION = 4.0  # 1 / tau_1 of its attention over regions, in its authors' configuration
GLORIA_WORDS = 5.0  # 1 / tau_2 of its sum over words, there
PAIRS_AT_ONCE = 256  # rows of the other side that are scored at a time


class ImageSide(NamedTuple):
    """Of one image."""

    patches_PD: jax.Array


class TextSide(NamedTuple):
    """Of one caption. text_D: its global embedding."""

    tokens_LD: jax.Array
    words_L: jax.Array
    text_D: jax.Array


Score = Callable[[ImageSide, TextSide], tuple[jax.Array, jax.Array]]
"""How well they fit: for choosing a caption, and for choosing an image. Scalars."""


def filip_score(image: ImageSide, text: TextSide) -> tuple[jax.Array, jax.Array]:
    """Mean over patches of the cosine with the nearest word; mean over words of that with the
    nearest patch (FILIP, equations 3 to 5)."""
    s_LP = unit(text.tokens_LD) @ unit(image.patches_PD).T
    least = jnp.finfo(jnp.float32).min
    of_patches_P = jnp.max(jnp.where(text.words_L[:, None], s_LP, least), axis=0)
    of_words_L = jnp.where(text.words_L, jnp.max(s_LP, axis=1), 0.0)
    words = jnp.maximum(jnp.sum(text.words_L), 1)
    return jnp.mean(of_patches_P), jnp.sum(of_words_L) / words.astype(jnp.float32)


def pacl_score(image: ImageSide, text: TextSide) -> tuple[jax.Array, jax.Array]:
    """The cosine of the caption with the mean of the patches, weighted by a softmax of their
    cosines with it (PACL, section 3.2)."""
    patches_PD, text_D = unit(image.patches_PD), unit(text.text_D)
    weights_P = jax.nn.softmax(patches_PD @ text_D)
    score = unit(weights_P @ patches_PD) @ text_D
    return score, score


def gloria_score(image: ImageSide, text: TextSide) -> tuple[jax.Array, jax.Array]:
    """tau_2 log sum_l exp(cos(c_l, t_l) / tau_2) over words, where c_l is the mean of the patches,
    weighted by a softmax of their inner products with the word (GLoRIA, equations 3 to 5)."""
    tokens_LD = text.tokens_LD.astype(jnp.float32)
    patches_PD = image.patches_PD.astype(jnp.float32)
    weights_LP = jax.nn.softmax(GLORIA_ATTENTION * tokens_LD @ patches_PD.T, axis=-1)
    cosine_L = jnp.sum(unit(weights_LP @ patches_PD) * unit(tokens_LD), axis=-1)
    least = jnp.finfo(jnp.float32).min
    fits_L = jnp.where(text.words_L, GLORIA_WORDS * cosine_L, least)
    score = jax.nn.logsumexp(fits_L) / GLORIA_WORDS
    return score, score


def scored_contrast(
    score: Score, embeddings: Embeddings, scale: jax.Array, *, at_once: int = PAIRS_AT_ONCE
) -> jax.Array:
    """The contrast of all pairs of the batch by a score, nats: as CLIP's, with scores for cosines.

    at_once: how many rows of the other side are scored at a time.
    """
    images = ImageSide(embeddings.patches_BPD)
    texts = TextSide(embeddings.tokens_BLD, embeddings.words_BL, embeddings.text_BD)
    if devices() == 1:  # both directions of one table
        to_texts_BN, to_images_NB = _table(score, images, texts, at_once)
        to_images_BN = to_images_NB.T
    else:
        all_texts = jax.tree.map(gathered_rows, texts)
        all_images = jax.tree.map(gathered_rows, images)
        to_texts_BN = _table(score, images, all_texts, at_once)[0]

        def turned(text: TextSide, image: ImageSide) -> tuple[jax.Array, jax.Array]:
            return score(image, text)

        to_images_BN = _table(turned, texts, all_images, at_once)[1]
    return mean_of_rows(over_batch(scale * to_texts_BN) + over_batch(scale * to_images_BN)) / 2


def _table(score: Callable, left: NamedTuple, right: NamedTuple, at_once: int) -> tuple:
    """Both scores of every left row with every right row, [left, right]."""
    count = len(jax.tree.leaves(right)[0])
    pairs = jax.vmap(jax.vmap(score, in_axes=(None, 0)), in_axes=(0, None))
    if count <= at_once:
        return pairs(left, right)
    size = next(size for size in range(at_once, 0, -1) if count % size == 0)
    parts = jax.tree.map(lambda x: x.reshape(count // size, size, *x.shape[1:]), right)
    tables = jax.lax.map(jax.checkpoint(lambda part: pairs(left, part)), parts)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], count), tables)
