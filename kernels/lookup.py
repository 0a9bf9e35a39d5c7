# SPDX-License-Identifier: Apache-2.0
"""Rows of a table by index, as an embedding needs them."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def lookup(table_VD: jax.Array, index: jax.Array) -> jax.Array:
    """table[index], [..., D]; the gradient is summed in float32.

    XLA's CPU compiler converts a whole bfloat16 table to float32 before a loop that takes rows of
    it. It cannot where the table seems to come out of the same step as the index.
    """
    if table_VD.dtype == jnp.bfloat16:
        table_VD, index = jax.lax.optimization_barrier((table_VD, index))
    return table_VD[index]


def _fwd(table_VD: jax.Array, index: jax.Array):
    like = jnp.zeros((0, table_VD.shape[0]), table_VD.dtype)
    return lookup(table_VD, index), (index, like)


def _bwd(residuals, g: jax.Array):
    index, like = residuals
    zeros_VD = jnp.zeros((like.shape[1], g.shape[-1]), jnp.float32)
    return zeros_VD.at[index].add(g.astype(jnp.float32)).astype(like.dtype), None


lookup.defvjp(_fwd, _bwd)
