# SPDX-License-Identifier: Apache-2.0
"""Sliding-window multi-query attention (Griffin paper, section 2.3): cost O(T W).

Each query sees itself and the W tokens before it (W + 1 keys, as in DeepMind's code), none of them
before the start of its document. Positions within the document decide this alone: the key d tokens
back is visible if and only if d <= min(W, position).
"""

import jax

from kernels.local_attention import reference, xla

IMPLEMENTATIONS = {"reference": reference.attention, "xla": xla.attention}


def local_attention(
    q_BTHK: jax.Array,
    k_BTK: jax.Array,
    v_BTK: jax.Array,
    ring_k_BWK: jax.Array | None = None,
    ring_v_BWK: jax.Array | None = None,
    *,
    window: int,
    positions_BT: jax.Array,
    start_position_B: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Attention output [B, T, H, K] of a chunk, given the ring of the keys before it.

    Args:
      q_BTHK: queries, rotated, not scaled (this op divides by sqrt(K)).
      k_BTK: keys of the one key-value head, rotated.
      v_BTK: values.
      ring_k_BWK, ring_v_BWK: the W tokens before the chunk (ring.py); None: there are none.
      window: W.
      positions_BT: position of each token in its document; -1 at padding, whose output is finite
        and meaningless.
      start_position_B: position that follows the ring's last token; needed with a ring.
      implementation: a name of IMPLEMENTATIONS; None takes the best for the platform.

    Raises:
      ValueError: shapes disagree, or the implementation is unknown.
    """
    batch, time, _, size = q_BTHK.shape
    if k_BTK.shape != (batch, time, size) or v_BTK.shape != k_BTK.shape:
        raise ValueError(
            f"local_attention: q has shape {q_BTHK.shape}, k {k_BTK.shape}, v {v_BTK.shape}; "
            f"expected k and v of shape {(batch, time, size)}"
        )
    if ring_k_BWK is not None and (
        ring_v_BWK is None
        or start_position_B is None
        or ring_k_BWK.shape != (batch, window, size)
        or ring_v_BWK.shape != ring_k_BWK.shape
    ):
        raise ValueError(
            f"local_attention: a ring of keys of shape {ring_k_BWK.shape} needs values of the same "
            f"shape {(batch, window, size)} and start_position_B"
        )
    name = implementation or "xla"
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"local_attention: implementation {name!r} is unknown; expected one of "
            + ", ".join(IMPLEMENTATIONS)
        )
    return IMPLEMENTATIONS[name](
        q_BTHK, k_BTK, v_BTK, ring_k_BWK, ring_v_BWK, window, positions_BT, start_position_B
    )
