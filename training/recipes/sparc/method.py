# SPDX-License-Identifier: Apache-2.0
"""SPARC's local loss as pure functions (2401.09865, section 2), and how much of it is due to the
image.

    L_f = -1/(2B) sum_i 1/L_i sum_j [ log softmax_k(cos(c_ij, t_ik) / tau)_j
                                    + log softmax_k(cos(t_ij, c_ik) / tau)_j ]

c: the language-grouped vision embeddings (alignment.py); k runs over the tokens of the same
caption. The whole loss is 0.5 L_g + lambda_f L_f with CLIP's L_g (contrast.py).

c_l depends on t_l, and with near-linear weights sum_p (t_l . v_p) v_p points towards t_l wherever
the patches span enough directions: L_f can be low whatever the image. `mismatch_gap` shows it: near
0, nothing local has been learned. The paper does not speak of it.

Legend: alignment.py.
"""

import jax

from training.recipes.sparc.alignment import Weigh, grouped, similarities, sparse_weights
from training.recipes.sparc.contrast import Averaging, global_contrast, within_rows
from training.recipes.sparc.embeddings import Embeddings


def local_loss(
    embeddings: Embeddings,
    scale: jax.Array,
    *,
    weigh: Weigh = sparse_weights,
    averaging: Averaging = "caption",
) -> jax.Array:
    """L_f in nats; scale: 1 / tau. averaging: "caption" as the text, "batch" as the listing."""
    tokens_BLD, patches_BPD = embeddings.tokens_BLD, embeddings.patches_BPD
    weights_BLP = weigh(similarities(tokens_BLD, patches_BPD))
    grouped_BLD = grouped(weights_BLP, patches_BPD)
    return within_rows(grouped_BLD, tokens_BLD, embeddings.words_BL, scale, averaging=averaging)


def sparc_loss(
    embeddings: Embeddings,
    scale: jax.Array,
    *,
    global_weight: float = 0.5,
    local_weight: float = 1.0,
    weigh: Weigh = sparse_weights,
    averaging: Averaging = "caption",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The whole loss, and its two terms without their weights.

        loss, terms = sparc_loss(embeddings, jnp.exp(log_scale), local_weight=5.0)

    The paper sweeps local_weight over 0.5, 1, 5 and 10 and does not name the one it took.
    """
    terms = {
        "global": global_contrast(embeddings.image_BD, embeddings.text_BD, scale),
        "local": local_loss(embeddings, scale, weigh=weigh, averaging=averaging),
    }
    return global_weight * terms["global"] + local_weight * terms["local"], terms


def mismatch_gap(
    embeddings: Embeddings,
    scale: jax.Array,
    *,
    weigh: Weigh = sparse_weights,
    averaging: Averaging = "caption",
) -> jax.Array:
    """L_f beside the images of the row before, less L_f, in nats. Has no gradient. Rows of a batch
    that share a caption or an image make it smaller."""
    still = jax.tree.map(jax.lax.stop_gradient, embeddings)
    wrong, right = (
        local_loss(one, jax.lax.stop_gradient(scale), weigh=weigh, averaging=averaging)
        for one in (embeddings.with_wrong_images(), still)
    )
    return wrong - right
