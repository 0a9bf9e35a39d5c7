# SPDX-License-Identifier: Apache-2.0
"""Sliding-window attention by its definition, with the whole T x (W + T) matrix: for tests only."""

import jax
import jax.numpy as jnp

from kernels.local_attention import ring

MASKED = -2.3819763e38  # DeepMind's value: finite, so that a row without keys stays finite


def attention(
    q_BTHK, k_BTK, v_BTK, ring_k_BWK, ring_v_BWK, window, positions_BT, start_position_B
) -> jax.Array:
    """See api.local_attention."""
    time, size = q_BTHK.shape[1], q_BTHK.shape[3]
    past = 0
    if ring_k_BWK is not None:
        past = window
        k_BTK = jnp.concatenate([ring.time_order(ring_k_BWK, start_position_B), k_BTK], 1)
        v_BTK = jnp.concatenate([ring.time_order(ring_v_BWK, start_position_B), v_BTK], 1)
    distance_TS = past + jnp.arange(time)[:, None] - jnp.arange(past + time)[None]
    reach_BT1 = jnp.minimum(window, positions_BT)[..., None]
    visible_BTS = (distance_TS >= 0)[None] & (distance_TS[None] <= reach_BT1)
    logits_BHTS = jnp.einsum(
        "bthk,bsk->bhts", q_BTHK.astype(jnp.float32), k_BTK.astype(jnp.float32)
    )
    logits_BHTS = jnp.where(visible_BTS[:, None], logits_BHTS * size**-0.5, MASKED)
    weights_BHTS = jax.nn.softmax(logits_BHTS, -1)
    out_BTHK = jnp.einsum("bhts,bsk->bthk", weights_BHTS, v_BTK.astype(jnp.float32))
    return out_BTHK.astype(q_BTHK.dtype)
