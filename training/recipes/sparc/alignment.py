# SPDX-License-Identifier: Apache-2.0
"""Which patches belong to a word: from similarities to weights, and the patches' weighted mean
(2401.09865, section 2 and appendix C).

    s_lp = t_l . v_p                                inner products, of one image and its caption
    h_lp = (s_lp - min_k s_lk) / (max_k s_lk - min_k s_lk)
    a_lp = h_lp [h_lp >= 1 / P] / sum_r ...         rows sum to 1
    c_l  = sum_p a_lp v_p                           the language-grouped vision embedding

The largest similarity of a row becomes 1 before the threshold, so each word keeps a patch. Where
all similarities of a row are equal, which the paper leaves open, each patch gets 1 / P and no
gradient flows into the row. Gradients flow through the weights: the paper speaks of no stop.

Legend: B rows, L tokens of a caption, P patches of an image, D width of the embeddings.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

FLAT = 1e-6  # a row whose spread is below this part of its largest magnitude has equal similarities

Weigh = Callable[[jax.Array], jax.Array]
"""Similarities [..., L, P] to weights whose rows sum to 1."""


def similarities(tokens_BLD: jax.Array, patches_BPD: jax.Array) -> jax.Array:
    """Inner products [B, L, P] in float32: they are scaled by their own spread."""
    tokens_BLD, patches_BPD = tokens_BLD.astype(jnp.float32), patches_BPD.astype(jnp.float32)
    return jnp.einsum("bld,bpd->blp", tokens_BLD, patches_BPD)


def min_max(s: jax.Array) -> jax.Array:
    """Rows [..., P] moved and scaled to 0 at their least entry and 1 at their largest; all 1 where
    the entries are equal."""
    low, high = jnp.min(s, -1, keepdims=True), jnp.max(s, -1, keepdims=True)
    magnitude = jnp.maximum(jnp.abs(low), jnp.abs(high))
    flat = high - low <= FLAT * magnitude
    span = jnp.where(flat, 1.0, high - low)  # no division by 0 on either branch: NaN gradients
    return jnp.where(flat, 1.0, (s - low) / span)


def sparse_weights(s_BLP: jax.Array) -> jax.Array:
    """The paper's weights: min-max, nothing below 1 / P, rows renormalised (equations 2 to 4)."""
    return _thresholded(s_BLP, 1.0 / s_BLP.shape[-1])


def dense_weights(s_BLP: jax.Array) -> jax.Array:
    """The same without the threshold: the ablation "no sparsity"."""
    return _thresholded(s_BLP, 0.0)


def softmax_weights(s_BLP: jax.Array) -> jax.Array:
    """The ablation "softmax"."""
    return jax.nn.softmax(s_BLP, axis=-1)


def grouped(weights_BLP: jax.Array, patches_BPD: jax.Array) -> jax.Array:
    """The language-grouped vision embeddings [B, L, D] (equation 5)."""
    return jnp.einsum("blp,bpd->bld", weights_BLP, patches_BPD.astype(weights_BLP.dtype))


def _thresholded(s_BLP: jax.Array, threshold: float) -> jax.Array:
    h_BLP = min_max(s_BLP)
    kept_BLP = jnp.where(h_BLP >= threshold, h_BLP, 0.0)
    return kept_BLP / jnp.sum(kept_BLP, -1, keepdims=True)
