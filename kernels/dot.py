# SPDX-License-Identifier: Apache-2.0
"""Matrix products with float32 sums, and the same for their gradients; sums over rows.

In bfloat16 JAX's own rule would multiply a float32 gradient by a bfloat16 factor: several times
slower on every platform. Here the products of the backward pass, too, have bfloat16 factors and
float32 results, and a float32 parameter gets its gradient without a rounding to bfloat16.

What is particular to XLA's CPU compiler stands here and nowhere else. Its fast bfloat16 product
takes the forms [M, I] [I, J] and [M, I] [J, I] with at least two rows (docs/performance.md); others
are converted to float32 first, six times slower. Few rows times a weight [J, I] read the weight up
to twice as fast where it is the first factor, presumably because the second one is packed anew for
every call. And a sum over many rows becomes a tree of windows, which a product with a row of ones
replaces.
"""

import functools

import jax
import jax.numpy as jnp

from kernels import platform

LEAST_ROWS = {0: 8, 1: 2}  # below them the product is slow, by the second factor's summed axis


def dot(a_MI: jax.Array, b_IJ: jax.Array) -> jax.Array:
    """a b in float32, [M, J]; b is cast to a's dtype first."""
    if a_MI.dtype == jnp.float32:
        return jnp.dot(a_MI, b_IJ.astype(jnp.float32))
    return _dot(a_MI, b_IJ)


def dot_transposed(a_MI: jax.Array, b_JI: jax.Array) -> jax.Array:
    """a b^T in float32, [M, J]; b is cast to a's dtype first."""
    if a_MI.dtype == jnp.float32:
        b_JI = b_JI.astype(jnp.float32)
        if platform.current() == "cpu" and a_MI.shape[0] > 1 and _better_turned(a_MI, b_JI):
            return second_first(a_MI, b_JI)
        return jax.lax.dot_general(a_MI, b_JI, (((1,), (1,)), ((), ())))
    return _dot_transposed(a_MI, b_JI)


def _better_turned(a_MI: jax.Array, b_JI: jax.Array) -> bool:
    """Whether second_first is the faster form on a CPU, as measured with dot_bench.py."""
    (rows, summed), columns = a_MI.shape, b_JI.shape[0]
    most = 64
    if a_MI.dtype != jnp.float32:
        most = 32 if summed >= 512 else 8 if summed >= 256 else 0
    return rows <= min(most, columns)


def second_first(a_MI: jax.Array, b_JI: jax.Array) -> jax.Array:
    """a b^T in float32, as (b a^T)^T, which a barrier keeps the compiler from turning back."""
    axes = (((1,), (1,)), ((), ()))
    out_JM = jax.lax.dot_general(b_JI, a_MI, axes, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(out_JM).T


def dot_over_rows(a_MI: jax.Array, b_MJ: jax.Array) -> jax.Array:
    """a^T b in float32, [I, J], of two matrices of one dtype; no gradient of its own."""
    if a_MI.dtype == jnp.float32:
        return jax.lax.dot_general(a_MI, b_MJ, (((0,), (0,)), ((), ())))
    return _contract(a_MI, b_MJ, 0, 0)


def _contract(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """The product of two matrices over these axes, as each platform does it best."""

    def plain(a: jax.Array, b: jax.Array, a_axis: int = a_axis) -> jax.Array:
        axes = (((a_axis,), (b_axis,)), ((), ()))
        return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)

    def on_cpu(a: jax.Array, b: jax.Array) -> jax.Array:
        if a_axis == 0:
            a = _copy_transposed(a)
        rows, least = a.shape[0], LEAST_ROWS[b_axis]
        if rows < least:
            a = jnp.pad(a, ((0, least - rows), (0, 0)))
        if b_axis == 1 and _better_turned(a, b):
            return second_first(a, b)[:rows]
        return plain(a, b, 1)[:rows]

    return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=plain)


def _copy_transposed(a_MI: jax.Array) -> jax.Array:
    """a^T as a copy: a plain transpose would be folded into the product, and make it slow."""
    rows, columns = a_MI.shape
    if columns % 2:
        return a_MI.T
    return jnp.transpose(a_MI.reshape(rows, columns // 2, 2), (1, 2, 0)).reshape(columns, rows)


@jax.custom_vjp
def _dot(a_MI: jax.Array, b_IJ: jax.Array) -> jax.Array:
    return _contract(a_MI, b_IJ.astype(a_MI.dtype), 1, 0)


def _dot_fwd(a_MI: jax.Array, b_IJ: jax.Array):
    return _dot(a_MI, b_IJ), (a_MI, b_IJ)


def _dot_bwd(residuals, g_MJ: jax.Array):
    a_MI, b_IJ = residuals
    g_MJ = g_MJ.astype(a_MI.dtype)
    da_MI = _contract(g_MJ, b_IJ.astype(a_MI.dtype), 1, 1).astype(a_MI.dtype)
    return da_MI, _contract(a_MI, g_MJ, 0, 0).astype(b_IJ.dtype)


_dot.defvjp(_dot_fwd, _dot_bwd)


@jax.custom_vjp
def _dot_transposed(a_MI: jax.Array, b_JI: jax.Array) -> jax.Array:
    return _contract(a_MI, b_JI.astype(a_MI.dtype), 1, 1)


def _dot_transposed_fwd(a_MI: jax.Array, b_JI: jax.Array):
    return _dot_transposed(a_MI, b_JI), (a_MI, b_JI)


def _dot_transposed_bwd(residuals, g_MJ: jax.Array):
    a_MI, b_JI = residuals
    g_MJ = g_MJ.astype(a_MI.dtype)
    da_MI = _contract(g_MJ, b_JI.astype(a_MI.dtype), 1, 0).astype(a_MI.dtype)
    return da_MI, _contract(g_MJ, a_MI, 0, 0).astype(b_JI.dtype)


_dot_transposed.defvjp(_dot_transposed_fwd, _dot_transposed_bwd)


def sum_rows(y: jax.Array) -> jax.Array:
    """The sum of y [..., J] over all axes but the last, in float32."""
    y_MJ = y.reshape(-1, y.shape[-1]).astype(jnp.float32)
    return jax.lax.platform_dependent(
        y_MJ,
        cpu=lambda y_MJ: jnp.dot(jnp.ones((1, y_MJ.shape[0]), jnp.float32), y_MJ)[0],
        default=lambda y_MJ: jnp.sum(y_MJ, 0),
    )


def spread(v_J: jax.Array, like: jax.Array) -> jax.Array:
    """v broadcast to the shape and dtype of `like` [..., J]; its gradient is a sum_rows."""
    return _spread(v_J, like.shape, like.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(v_J: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.broadcast_to(v_J.astype(dtype).reshape((1,) * (len(shape) - 1) + (-1,)), shape)


def _spread_fwd(v_J: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype):
    return _spread(v_J, shape, dtype), jnp.zeros((0,), v_J.dtype)


def _spread_bwd(shape, dtype, v_like: jax.Array, g: jax.Array):
    return (sum_rows(g).astype(v_like.dtype),)


_spread.defvjp(_spread_fwd, _spread_bwd)
