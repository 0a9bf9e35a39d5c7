# SPDX-License-Identifier: Apache-2.0
"""Sliding-window multi-query attention (Griffin paper, section 2.3): cost O(T W).

Each query sees itself and the W tokens before it (W + 1 keys, as in DeepMind's code), none of them
before the start of its document. Positions within the document decide this alone: the key d tokens
back is visible if and only if d <= min(W, position).
"""

import functools

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.local_attention import gpu, reference, ring, tpu, xla
from kernels.sequence import tokens_before

IMPLEMENTATIONS = {"reference": reference, "xla": xla, "tpu": tpu, "gpu": gpu}
BEST = {"tpu": "tpu"}  # by platform; "xla" elsewhere


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
    one_document: bool = False,
    axis: str | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Attention output [B, T, H, K] of a chunk, given the ring of the keys before it.

    Args:
      q_BTHK: queries, rotated, not scaled (this op divides by sqrt(K)).
      k_BTK: keys of the one key-value head, rotated.
      v_BTK: values.
      ring_k_BWK, ring_v_BWK: the W tokens before the chunk (ring.py); None: there are none, so that
        no position is larger than the token's index.
      window: W.
      positions_BT: position of each token in its document; -1 at padding, whose output is finite
        and meaningless. (Queries, keys and values must be finite there too: what is masked is
        multiplied by 0.)
      start_position_B: position that follows the ring's last token; needed with a ring.
      one_document: says that every row is one document from position 0 on without padding, so that
        positions_BT is 0, 1, 2, ...; `gpu` needs it, the others do as well without.
      axis: mesh axis (inside jax.shard_map) over which the chunk is cut: q, k, v and positions are
        this device's part, the ring and start_position the whole's, equal on all devices of the
        axis. Each device takes the W keys and values before its part from the devices before it.
      implementation: a name of IMPLEMENTATIONS; None takes the best for the platform.

    Raises:
      ValueError: shapes disagree, the implementation is unknown or cannot compute this exactly,
        or one_document comes with a ring or an axis.
    """
    _check(
        *(q_BTHK, k_BTK, v_BTK, ring_k_BWK, ring_v_BWK),
        *(window, positions_BT, start_position_B, implementation),
    )
    if one_document and (ring_k_BWK is not None or axis is not None):
        raise ValueError(
            "local_attention: one_document says that every row starts at position 0, a ring or an "
            "axis that tokens come before it; pass one of them"
        )
    past: list[jax.Array | None] = [None, None]
    if ring_k_BWK is not None and ring_v_BWK is not None and start_position_B is not None:
        if q_BTHK.shape[1] == 1 and axis is None and implementation in (None, "xla"):
            state = (ring_k_BWK, ring_v_BWK, positions_BT, start_position_B)
            return xla.decode(q_BTHK, k_BTK, v_BTK, *state)
        past = [
            ring.time_order(ring_BWK, start_position_B).astype(new_BTK.dtype)
            for ring_BWK, new_BTK in ((ring_k_BWK, k_BTK), (ring_v_BWK, v_BTK))
        ]
    if axis is not None:
        past = [
            tokens_before(new_BTK, window, axis, first_BWK)
            for new_BTK, first_BWK in zip((k_BTK, v_BTK), past, strict=True)
        ]
        start_position_B = jnp.maximum(positions_BT[:, 0], 0)
    args = (q_BTHK, k_BTK, v_BTK, *past, positions_BT, start_position_B)
    only_gpu = {"one_document": one_document} if implementation == "gpu" else {}
    return platform.run(
        implementation,
        IMPLEMENTATIONS,
        BEST,
        lambda module: functools.partial(module.attention, window=window, **only_gpu),
        *args,
    )


def _check(
    q_BTHK,
    k_BTK,
    v_BTK,
    ring_k_BWK,
    ring_v_BWK,
    window,
    positions_BT,
    start_position_B,
    implementation,
) -> None:
    """Raises ValueError as local_attention."""
    platform.check_dtypes("local_attention", jnp.floating, q=q_BTHK, k=k_BTK, v=v_BTK)
    if q_BTHK.ndim != 4 or 0 in q_BTHK.shape:
        raise ValueError(
            f"local_attention: q has shape {q_BTHK.shape}; expected [B, T, H, K] of at least one "
            "of each"
        )
    if not isinstance(window, int) or window < 1:
        raise ValueError(f"local_attention: window={window!r}; expected a whole number, at least 1")
    batch, time, _, size = q_BTHK.shape
    if positions_BT.shape != (batch, time):
        raise ValueError(
            f"local_attention: positions have shape {positions_BT.shape}; expected {(batch, time)}"
        )
    if k_BTK.shape != (batch, time, size) or v_BTK.shape != k_BTK.shape:
        raise ValueError(
            f"local_attention: q has shape {q_BTHK.shape}, k {k_BTK.shape}, v {v_BTK.shape}; "
            f"expected k and v of shape {(batch, time, size)}"
        )
    rings = {"ring_k": ring_k_BWK, "ring_v": ring_v_BWK}
    past = rings | {"start_position": start_position_B}
    shapes = {name: None if x is None else x.shape for name, x in past.items()}
    expected = dict.fromkeys(rings, (batch, window, size)) | {"start_position": (batch,)}
    if any(x is not None for x in rings.values()) and shapes != expected:
        raise ValueError(
            f"local_attention: what comes before the chunk has the shapes {shapes}; expected "
            f"{expected}, or no ring at all"
        )
    platform.check("local_attention", implementation, IMPLEMENTATIONS)
