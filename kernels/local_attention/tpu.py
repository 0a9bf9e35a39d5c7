# SPDX-License-Identifier: Apache-2.0
"""Sliding-window attention for TPUs: JAX's splash attention, which skips what lies outside the
window block by block, forward and backward.

Documents are segments: token t belongs to segment n if n documents start among the chunk's tokens
up to t, so that segment 0 is the one that the past belongs to.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from kernels.kept import ATTENTION

LANES = 128
BLOCK = 512  # tokens; at most
PADDING, NO_KEY = -1, -2  # segments of padding, and of the past before the document


def attention(
    q_BTHK,
    k_BTK,
    v_BTK,
    past_k_BWK,
    past_v_BWK,
    positions_BT,
    start_position_B,
    *,
    window: int,
    interpret: bool = False,
) -> jax.Array:
    """See api.local_attention; past is in order of time."""
    time, heads, size = q_BTHK.shape[1:]
    q_segment_BT = jnp.cumsum(positions_BT == 0, 1, dtype=jnp.int32)
    q_segment_BT = jnp.where(positions_BT < 0, PADDING, q_segment_BT)
    kv_segment_BS, past = q_segment_BT, 0
    if past_k_BWK is not None:
        past = window
        age_1W = window - jnp.arange(window)[None]
        past_BW = jnp.where(age_1W <= start_position_B[:, None], 0, NO_KEY)
        kv_segment_BS = jnp.concatenate([past_BW, q_segment_BT], 1)
        k_BTK = jnp.concatenate([past_k_BWK, k_BTK], 1)
        v_BTK = jnp.concatenate([past_v_BWK, v_BTK], 1)
    block = min(BLOCK, pl.cdiv(time, LANES) * LANES)
    q_length, kv_length = (pl.cdiv(n, block) * block for n in (time, past + time))
    q_BHTK = jnp.swapaxes(_pad(q_BTHK, q_length), 1, 2)
    q_BHTK = (q_BHTK.astype(jnp.float32) * size**-0.5).astype(q_BTHK.dtype)
    kernel = _kernel(q_length, kv_length, heads, window, past, block, interpret)
    segments = splash.SegmentIds(
        _pad(q_segment_BT, q_length, PADDING), _pad(kv_segment_BS, kv_length, PADDING)
    )
    out_BHTK: Any = jax.vmap(kernel)(
        q_BHTK, _pad(k_BTK, kv_length), _pad(v_BTK, kv_length), segments
    )
    return jnp.swapaxes(out_BHTK, 1, 2)[:, :time].astype(q_BTHK.dtype)


def _pad(x: jax.Array, length: int, value: int = 0) -> jax.Array:
    grow = [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, grow, constant_values=value)


@functools.lru_cache(64)
def _kernel(
    q_length: int, kv_length: int, heads: int, window: int, past: int, block: int, interpret: bool
) -> splash.SplashAttentionKernel:
    mask = masks.LocalMask((q_length, kv_length), (window, 0), past)
    with jax.ensure_compile_time_eval():
        return splash.make_splash_mqa(
            masks.MultiHeadMask([mask] * heads),
            block_sizes=splash.BlockSizes(
                **dict.fromkeys(
                    (
                        "block_q",
                        "block_kv",
                        "block_kv_compute",
                        "block_q_dkv",
                        "block_kv_dkv",
                        "block_kv_dkv_compute",
                        "block_q_dq",
                        "block_kv_dq",
                    ),
                    block,
                )
            ),
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=ATTENTION,
            interpret=interpret,
        )
