# SPDX-License-Identifier: Apache-2.0
"""Sliding-window attention over a sequence that is cut over a mesh axis (inside jax.shard_map).

Each device takes the W keys and values before its part from the devices before it.
"""

import jax
import jax.numpy as jnp

from kernels.local_attention import api, ring
from kernels.sequence import tokens_before


def local_attention_sharded(
    q_BTHK: jax.Array,
    k_BTK: jax.Array,
    v_BTK: jax.Array,
    ring_k_BWK: jax.Array | None = None,
    ring_v_BWK: jax.Array | None = None,
    *,
    axis: str,
    window: int,
    positions_BT: jax.Array,
    start_position_B: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """local_attention of the whole sequence, of which q, k, v and positions are this device's part.

    The ring and start_position belong to the whole sequence and are equal on all devices of `axis`.

    Raises:
      ValueError: as local_attention.
    """
    api.check(
        *(q_BTHK, k_BTK, v_BTK, ring_k_BWK, ring_v_BWK),
        *(window, positions_BT, start_position_B, implementation),
    )
    past = []
    for new_BTK, ring_BWK in ((k_BTK, ring_k_BWK), (v_BTK, ring_v_BWK)):
        first_BWK = None
        if ring_BWK is not None and start_position_B is not None:
            first_BWK = ring.time_order(ring_BWK, start_position_B)
        past.append(tokens_before(new_BTK, window, axis, first_BWK))
    return api.attend(
        *(q_BTHK, k_BTK, v_BTK, *past),
        window=window,
        positions_BT=positions_BT,
        start_position_B=jnp.maximum(positions_BT[:, 0], 0),
        implementation=implementation,
    )
