# SPDX-License-Identifier: Apache-2.0
"""What "No Representation, No Trust" (arXiv 2405.00662) measures, of a language model's policy: how
far an update has moved it, and the rank of its final features.

Legend: N answers, A tokens of an answer, D width.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eval.diagnostics.representation import add_features, no_features, ranks
from training.finetuning.policy import Judge, real_tokens
from training.finetuning.policy_losses import LOG_RATIO, mean_where, ratio_of
from training.finetuning.rollout import Rollout


def trust_region(log_ratio_NA: jax.Array, real_NA: jax.Array, clip: float) -> dict[str, jax.Array]:
    """Of log(pi / pi_old) on all tokens of a rollout, drawn from pi_old: the k3 estimate of
    KL(pi_old || pi); the share of tokens outside of the clip; the mean ratio of those below
    1 - clip and of those above 1 + clip, and the excess ratio, above over below (NaN where there
    are none)."""
    ratio_NA = ratio_of(log_ratio_NA)
    below = _mean_if_any(ratio_NA, real_NA & (ratio_NA < 1 - clip))
    above = _mean_if_any(ratio_NA, real_NA & (ratio_NA > 1 + clip))
    kl_NA = ratio_NA - 1 - jnp.clip(log_ratio_NA, *LOG_RATIO)
    return {
        "kl": mean_where(kl_NA, real_NA),
        "ratio_below": below,
        "ratio_above": above,
        "excess_ratio": above / below,
        "clipped": mean_where((jnp.abs(ratio_NA - 1) > clip).astype(jnp.float32), real_NA),
    }


def representation(
    judge: Judge, trained: Any, frozen: Any, rollout: Rollout, *, size: int
) -> dict[str, jax.Array]:
    """All ranks of the final features at the tokens of the answers, and the mean norm of what the
    final norm reads, `size` answers at a time. NaN: fewer tokens than features."""
    parts = jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, size, *x.shape[1:]), rollout)
    width = jax.eval_shape(lambda: judge(trained, frozen, rollout)).features_BAD.shape[-1]

    def add(carried: Any, part: Rollout) -> tuple[Any, jax.Array]:
        judged, real_BA = judge(trained, frozen, part), real_tokens(part)
        features_MD = judged.features_BAD.reshape(-1, width)
        carried = add_features(carried, features_MD, real_BA.reshape(-1))
        return carried, jnp.sum(jnp.where(real_BA, judged.norm_BA, 0))

    features, norms = jax.lax.scan(add, no_features(width), parts)
    count = jnp.maximum(features.count, 1).astype(jnp.float32)
    return {**ranks(features), "pre_activation_norm": jnp.sum(norms) / count}


def _mean_if_any(x_NA: jax.Array, mask_NA: jax.Array) -> jax.Array:
    return jnp.where(jnp.any(mask_NA), mean_where(x_NA, mask_NA), jnp.nan)
