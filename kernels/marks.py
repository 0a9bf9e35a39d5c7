# SPDX-License-Identifier: Apache-2.0
"""What a token is to a recurrence: the one number that the Pallas kernels read of it."""

import jax
import jax.numpy as jnp

NORMAL, RESET, PADDING = 0, 1, 2


def marks(reset_BT: jax.Array, real_BT: jax.Array | None) -> jax.Array:
    """[B, T] int32: RESET where a document starts, PADDING where there is no token."""
    mark_BT = jnp.where(reset_BT, RESET, NORMAL)
    if real_BT is not None:
        mark_BT = jnp.where(real_BT, mark_BT, PADDING)
    return mark_BT.astype(jnp.int32)
