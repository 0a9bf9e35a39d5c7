# SPDX-License-Identifier: Apache-2.0
"""Sliding-window attention for NVIDIA GPUs: cuDNN, through jax.nn.dot_product_attention.

cuDNN's window counts tokens and knows no documents, so that it is exact only where every row is one
document from its first token on, without padding and without a past: packed batches are for `xla`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

MAX_SIZE = 256  # of a head, on Hopper; before it 128, which cuDNN checks by itself


def attention(
    q_BTHK: jax.Array,
    k_BTK: jax.Array,
    v_BTK: jax.Array,
    past_k_BWK: jax.Array | None,
    past_v_BWK: jax.Array | None,
    positions_BT: jax.Array,
    start_position_B: jax.Array | None,
    *,
    window: int,
    one_document: bool = False,
) -> jax.Array:
    """See api.local_attention; past is in order of time.

    Raises ValueError where cuDNN has no kernel, or none that is exact.
    """
    check(q_BTHK, k_BTK, v_BTK, past_k_BWK, positions_BT, one_document)
    return jax.nn.dot_product_attention(
        q_BTHK,
        k_BTK[:, :, None],
        v_BTK[:, :, None],
        is_causal=True,
        local_window_size=(window, 0),  # W keys before the query, and its own
        implementation="cudnn",
    )


def check(q_BTHK, k_BTK, v_BTK, past_k_BWK, positions_BT, one_document: bool) -> None:
    """Raises ValueError as attention. Positions that are known while the program is traced must be
    what one_document says; of those that are not, it is the caller's word."""
    time, size = q_BTHK.shape[1], q_BTHK.shape[3]
    dtypes = {x.dtype for x in (q_BTHK, k_BTK, v_BTK)}
    if past_k_BWK is not None:
        needs = "a sequence without past keys"
    elif not one_document:
        needs = (
            "one_document=True, which says that every row is one document from position 0 on "
            "without padding: cuDNN cannot keep packed documents apart"
        )
    elif dtypes not in ({jnp.dtype("bfloat16")}, {jnp.dtype("float16")}):
        needs = f"bfloat16 or float16 throughout; got {', '.join(sorted(map(str, dtypes)))}"
    elif size > MAX_SIZE or size % 8:
        needs = f"a head size that 8 divides, at most {MAX_SIZE}; got {size}"
    elif not _counts_up(positions_BT, time):
        needs = f"positions 0 to {time - 1} in every row, as one_document says"
    else:
        return
    raise ValueError(
        f"local_attention: implementation 'gpu' needs {needs}. Implementation 'xla' does without"
    )


def _counts_up(positions_BT: jax.Array, time: int) -> bool:
    """False if the positions are known and are not 0, 1, 2, ... in every row."""
    if isinstance(positions_BT, Tracer):
        return True
    return bool((np.asarray(positions_BT) == np.arange(time)).all())
