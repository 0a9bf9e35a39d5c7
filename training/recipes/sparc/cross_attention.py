# SPDX-License-Identifier: Apache-2.0
"""MGCA's token-wise alignment (Wang et al., 2210.06044, section 3.2): words attend to patches and
patches to words, each is contrasted with what it has attended to, within the pair.

Departures: MGCA weighs tokens by the attention of a class token, which these towers have not: all
count alike. Its third level, prototypes of diseases, is left out. One head. The temperature is the
learned one, as SPARC's comparison has it.

Legend: B rows, P patches, L tokens, D width.
"""

import jax
import jax.numpy as jnp

from training.recipes.sparc.contrast import within_rows
from training.recipes.sparc.embeddings import Embeddings

PROJECTIONS = ("query", "key", "value", "out")


def init_projections(key: jax.Array, width: int) -> dict[str, jax.Array]:
    """The four D x D matrices of an attention, in each direction: [2, D, D] each. Words to patches
    come first."""
    keys = jax.random.split(key, len(PROJECTIONS))
    draws = (jax.random.normal(one, (2, width, width)) * width**-0.5 for one in keys)
    return dict(zip(PROJECTIONS, draws, strict=True))


def cross_attention_loss(
    embeddings: Embeddings, scale: jax.Array, projections: dict[str, jax.Array]
) -> jax.Array:
    """The mean of both directions, nats."""
    tokens_BLD = embeddings.tokens_BLD.astype(jnp.float32)
    patches_BPD = embeddings.patches_BPD.astype(jnp.float32)
    words_BL = embeddings.words_BL.astype(bool)
    every_BP = jnp.ones(patches_BPD.shape[:2], bool)
    to_patches, to_words = (jax.tree.map(lambda w, i=i: w[i], projections) for i in (0, 1))
    seen_BLD = _attended(tokens_BLD, patches_BPD, every_BP, to_patches)
    read_BPD = _attended(patches_BPD, tokens_BLD, words_BL, to_words)
    of_words = within_rows(seen_BLD, tokens_BLD, words_BL, scale)
    of_patches = within_rows(read_BPD, patches_BPD, every_BP, scale)
    return (of_words + of_patches) / 2


def _attended(x_BQD: jax.Array, y_BSD: jax.Array, seen_BS: jax.Array, w: dict) -> jax.Array:
    """What each x gathers of the y that may be seen."""
    q_BQD, k_BSD, v_BSD = x_BQD @ w["query"], y_BSD @ w["key"], y_BSD @ w["value"]
    logits_BQS = jnp.einsum("bqd,bsd->bqs", q_BQD, k_BSD) * x_BQD.shape[-1] ** -0.5
    least = jnp.finfo(jnp.float32).min
    weights_BQS = jax.nn.softmax(jnp.where(seen_BS[:, None], logits_BQS, least), axis=-1)
    return jnp.einsum("bqs,bsd->bqd", weights_BQS, v_BSD) @ w["out"]
