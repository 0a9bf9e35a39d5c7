# SPDX-License-Identifier: Apache-2.0
"""The landscape around a network: its Hessian's spectrum, how examples' gradients agree, and the
empirical neural tangent kernel.

    spectrum = hessian_spectrum(hessian_product(loss, params), params, key, iterations=100)
    spectrum.top, spectrum.bottom, density(spectrum, at_G)
    negative_share(cosines(gradient_products(example_loss, params, examples)))
    kernel_rank(tangent_kernel(apply, params, x_NI))

Lanczos (matfree) needs products with the Hessian only, which is never held. Parameters are any
pytree of float32. Shape letters: N examples, O outputs, P parameters, R random vectors, K Lanczos
iterations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from eval.diagnostics.representation import effective_rank, norm
from recurrentgemma.errors import MissingExtra, UserError

Product = Callable[[Any], Any]
"""The Hessian times a vector; both have the structure of the parameters."""
STEP = 1e-3  # of difference_product, times the parameters' norm


class Spectrum(NamedTuple):
    """Ritz values and their weights, by random vector: the density is the weights' sum at the
    values, over the R vectors (stochastic Lanczos quadrature)."""

    values_RK: jax.Array
    weights_RK: jax.Array  # each vector's sum to 1

    @property
    def top(self) -> jax.Array:
        """The largest eigenvalue."""
        return jnp.max(self.values_RK)

    @property
    def bottom(self) -> jax.Array:
        """The smallest eigenvalue, below 0 at a saddle."""
        return jnp.min(self.values_RK)


def hessian_product(loss: Callable[[Any], jax.Array], params: Any) -> Product:
    """By forward over reverse differentiation: exact."""
    return lambda vector: jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def difference_product(
    loss: Callable[[Any], jax.Array], params: Any, step: float = STEP
) -> Product:
    """By the difference of two gradients, for a loss whose kernels can be differentiated once only,
    as a Griffin's: (g(p + s v) - g(p - s v)) / 2 s with s = step |p| / |v|. To about 1e-3."""
    size = step * _norm(params)

    def product(vector: Any) -> Any:
        scale = size / jnp.maximum(_norm(vector), jnp.finfo(jnp.float32).tiny)

        def gradient(sign: float) -> Any:
            moved = jax.tree.map(
                lambda p, v: p + (sign * scale * v).astype(p.dtype), params, vector
            )
            return jax.grad(loss)(moved)

        return jax.tree.map(lambda a, b: (a - b) / (2 * scale), gradient(1.0), gradient(-1.0))

    return product


def hessian_spectrum(
    product: Product, params: Any, key: jax.Array, *, iterations: int, vectors: int = 1
) -> Spectrum:
    """Lanczos with full reorthogonalisation from `vectors` random directions. It holds `iterations`
    vectors of the size of the parameters.

    Raises:
      UserError: more iterations than parameters. MissingExtra: matfree is not installed.
    """
    try:
        from matfree import decomp
    except ImportError:
        raise MissingExtra(
            "the Hessian's spectrum needs matfree: run `pip install 'griffin-lm[eval]'`"
        ) from None
    flat_P, unflatten = jax.flatten_util.ravel_pytree(params)
    if not 1 <= iterations <= flat_P.size:
        raise UserError(
            f"{iterations} Lanczos iterations for {flat_P.size:,} parameters: expected at least 1 "
            "and at most as many as parameters"
        )
    tridiagonal = decomp.tridiag_sym(iterations, reortho="full", custom_vjp=False)

    def flat_product(vector_P: jax.Array) -> jax.Array:
        return jax.flatten_util.ravel_pytree(product(unflatten(vector_P)))[0]

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_P = jax.random.normal(key, flat_P.shape, flat_P.dtype)
        values_K, vectors_KK = jnp.linalg.eigh(tridiagonal(flat_product, start_P).J_small)
        return values_K, jnp.square(vectors_KK[0])

    return Spectrum(*jax.lax.map(one, jax.random.split(key, vectors)))


def density(spectrum: Spectrum, at_G: jax.Array, width: jax.Array | float) -> jax.Array:
    """The density of eigenvalues at points, each smoothed by a Gaussian of this width."""
    off_GRK = (at_G[:, None, None] - spectrum.values_RK[None]) / width
    bumps_GRK = jnp.exp(-0.5 * jnp.square(off_GRK)) / (width * jnp.sqrt(2 * jnp.pi))
    return jnp.mean(jnp.sum(bumps_GRK * spectrum.weights_RK[None], 2), 1)


def arbitrary_target_loss(
    apply: Callable[[Any, jax.Array], jax.Array], x_N: jax.Array, key: jax.Array
) -> Callable[[Any], jax.Array]:
    """mean (f - stop_gradient(f) + eps)^2, eps of N(0, 1): the landscape of a target that may be
    anything (arXiv 2303.01486, section 3)."""

    def loss(params: Any) -> jax.Array:
        y_N = apply(params, x_N)
        noise = jax.random.normal(key, y_N.shape, y_N.dtype)
        return jnp.mean(jnp.square(y_N - jax.lax.stop_gradient(y_N) + noise))

    return loss


def gradient_products(
    loss: Callable[[Any, Any], jax.Array], params: Any, examples: Any
) -> jax.Array:
    """<g_i, g_j> [N, N] of the examples' gradients. loss(params, example); examples: a pytree of
    arrays with a first axis N. It holds N times the parameters."""
    return products(jax.vmap(jax.grad(loss), (None, 0))(params, examples))


def products(grads: Any) -> jax.Array:
    """[N, N] inner products of N pytrees, stacked along a first axis."""

    def one(leaf: jax.Array) -> jax.Array:
        flat_NP = leaf.reshape(leaf.shape[0], -1).astype(jnp.float32)
        return jnp.matmul(flat_NP, flat_NP.T, precision=jax.lax.Precision.HIGHEST)

    return sum(map(one, jax.tree.leaves(grads)), start=jnp.zeros(()))


def cosines(products_NN: jax.Array) -> jax.Array:
    """The normalised gradient covariance <g_i, g_j> / |g_i| |g_j|; 0 where a gradient is 0."""
    size_N = jnp.sqrt(jnp.diagonal(products_NN))
    size_NN = size_N[:, None] * size_N[None]
    return jnp.where(size_NN > 0, products_NN / jnp.where(size_NN > 0, size_NN, 1), 0)


def negative_share(matrix_NN: jax.Array) -> jax.Array:
    """The share of entries off the diagonal that are below 0: of gradients, how often one example
    is learned at the cost of another.

    Raises UserError: there is one example only, and so no pair.
    """
    count = matrix_NN.shape[-1]
    if count < 2:
        raise UserError(f"{count} example: gradients are compared in pairs; give at least 2")
    off_NN = ~jnp.eye(count, dtype=bool)
    return jnp.sum((matrix_NN < 0) & off_NN, dtype=jnp.float32) / (count * (count - 1))


def tangent_kernel(
    apply: Callable[[Any, jax.Array], jax.Array], params: Any, x_N: jax.Array
) -> jax.Array:
    """The empirical NTK [N, N]: <grad f_o(x), grad f_o(x')>, the mean over the outputs o.
    apply(params, x_N) -> y_N or y_NO. Outputs go one after the other: it holds N times the
    parameters."""

    def of_output(index: jax.Array) -> jax.Array:
        def output(params: Any, x: jax.Array) -> jax.Array:
            return jnp.ravel(apply(params, x[None]))[index]

        return products(jax.vmap(jax.grad(output), (None, 0))(params, x_N))

    shape = jax.eval_shape(apply, params, x_N).shape
    outputs = 1 if len(shape) == 1 else shape[1]
    return jnp.mean(jax.lax.map(of_output, jnp.arange(outputs)), 0)


def kernel_rank(kernel_NN: jax.Array) -> jax.Array:
    """The effective rank of a kernel, from 1 (all examples are one) to N (each its own)."""
    return effective_rank(jnp.maximum(jnp.linalg.eigvalsh(kernel_NN), 0))


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum((jnp.square(norm(x)) for x in jax.tree.leaves(tree)), jnp.zeros(())))
