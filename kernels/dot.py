"""The matrix product of two matrices with float32 sums, and the same for its gradients.

In bfloat16 JAX's own rule would multiply a float32 gradient by a bfloat16 factor: several times
slower on every platform. Here both products of the backward pass have bfloat16 factors and float32
results, and a float32 parameter gets its gradient without a rounding to bfloat16 on the way.
"""

import jax
import jax.numpy as jnp


def dot(a_MI: jax.Array, b_IJ: jax.Array) -> jax.Array:
    """a @ b in float32 [M, J]; b is cast to a's dtype first."""
    if a_MI.dtype == jnp.float32:
        return jnp.dot(a_MI, b_IJ.astype(jnp.float32))
    return _dot(a_MI, b_IJ)


@jax.custom_vjp
def _dot(a_MI: jax.Array, b_IJ: jax.Array) -> jax.Array:
    return _product(a_MI, b_IJ.astype(a_MI.dtype))


def _product(a_MI: jax.Array, b_IJ: jax.Array) -> jax.Array:
    def plain(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.dot(a, b, preferred_element_type=jnp.float32)

    def padded(a: jax.Array, b: jax.Array) -> jax.Array:
        return plain(jnp.pad(a, ((0, 8 - a.shape[0]), (0, 0))), b)[: a.shape[0]]

    if a_MI.shape[0] >= 8:
        return plain(a_MI, b_IJ)
    # XLA's CPU compiler has no fast path for a single row of bfloat16: eight are ten times faster.
    return jax.lax.platform_dependent(a_MI, b_IJ, cpu=padded, default=plain)


def _dot_fwd(a_MI: jax.Array, b_IJ: jax.Array):
    return _dot(a_MI, b_IJ), (a_MI, b_IJ)


def _dot_bwd(residuals, g_MJ: jax.Array):
    a_MI, b_IJ = residuals
    g_MJ = g_MJ.astype(a_MI.dtype)
    da_MI = _product(g_MJ, b_IJ.astype(a_MI.dtype).T).astype(a_MI.dtype)
    db_IJ = _product(a_MI.T, g_MJ).astype(b_IJ.dtype)
    return da_MI, db_IJ


_dot.defvjp(_dot_fwd, _dot_bwd)
