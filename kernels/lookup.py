# SPDX-License-Identifier: Apache-2.0
"""Rows of a table by index, as an embedding needs them."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def lookup(table_VD: jax.Array, index: jax.Array) -> jax.Array:
    """table[index], [..., D]; the gradient is summed in float32.

    A bfloat16 table is read as 16-bit integers: XLA's CPU compiler would else convert all of it to
    float32 before it takes a single row.
    """
    if table_VD.dtype != jnp.bfloat16:
        return table_VD[index]
    rows = jax.lax.bitcast_convert_type(table_VD, jnp.uint16)[index]
    return jax.lax.bitcast_convert_type(rows, jnp.bfloat16)


def _fwd(table_VD: jax.Array, index: jax.Array):
    like = jnp.zeros((0, table_VD.shape[0]), table_VD.dtype)
    return lookup(table_VD, index), (index, like)


def _bwd(residuals, g: jax.Array):
    index, like = residuals
    zeros_VD = jnp.zeros((like.shape[1], g.shape[-1]), jnp.float32)
    return zeros_VD.at[index].add(g.astype(jnp.float32)).astype(like.dtype), None


lookup.defvjp(_fwd, _bwd)
