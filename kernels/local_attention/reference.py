# SPDX-License-Identifier: Apache-2.0
"""Sliding-window attention by its definition, with the whole T x (W + T) matrix: for tests only."""

import jax
import jax.numpy as jnp

MASKED = -2.3819763e38  # DeepMind's value: finite, so that a row without keys stays finite


def attention(
    q_BTHK, k_BTK, v_BTK, past_k_BWK, past_v_BWK, positions_BT, start_position_B, *, window: int
) -> jax.Array:
    """See api.local_attention; past is in order of time."""
    time, size = q_BTHK.shape[1], q_BTHK.shape[3]
    past = 0
    dtype = jnp.float64 if q_BTHK.dtype == jnp.float64 else jnp.float32
    if past_k_BWK is not None:
        past = window
        k_BTK = jnp.concatenate([past_k_BWK, k_BTK], 1)
        v_BTK = jnp.concatenate([past_v_BWK, v_BTK], 1)
    index_S = jnp.arange(past + time, dtype=positions_BT.dtype)
    distance_TS = index_S[past:, None] - index_S[None]
    reach_BT1 = jnp.minimum(window, positions_BT)[..., None]
    visible_BTS = (distance_TS >= 0)[None] & (distance_TS[None] <= reach_BT1)
    logits_BHTS = jnp.einsum("bthk,bsk->bhts", q_BTHK.astype(dtype), k_BTK.astype(dtype))
    logits_BHTS = jnp.where(visible_BTS[:, None], logits_BHTS * size**-0.5, MASKED)
    weights_BHTS = jax.nn.softmax(logits_BHTS, -1)
    out_BTHK = jnp.einsum("bhts,bsk->bthk", weights_BHTS, v_BTK.astype(dtype))
    return out_BTHK.astype(q_BTHK.dtype)
