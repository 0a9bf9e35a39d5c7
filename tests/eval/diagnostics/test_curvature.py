# SPDX-License-Identifier: Apache-2.0
"""Curvature of a network small enough for its whole Hessian and all its gradients."""

import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from eval.diagnostics import curvature
from recurrentgemma.errors import MissingExtra, UserError
from tests.drawn import normal

KEY = jax.random.key(0)


def apply(params, x_NI):
    return jnp.tanh(x_NI @ params["in"]) @ params["out"]


@pytest.fixture(scope="module")
def params():
    return {"in": normal(0, (4, 6)), "out": normal(1, (6, 2))}


@pytest.fixture(scope="module")
def x_NI():
    return normal(1, (10, 4))


@pytest.fixture(scope="module")
def loss(x_NI):
    y_NO = normal(2, (10, 2))
    return lambda params: jnp.mean(jnp.square(apply(params, x_NI) - y_NO))


@pytest.fixture(scope="module")
def eigenvalues_P(params, loss):
    flat_P, unflatten = jax.flatten_util.ravel_pytree(params)
    return np.linalg.eigvalsh(np.asarray(jax.hessian(lambda p: loss(unflatten(p)))(flat_P)))


def test_all_iterations_give_all_eigenvalues(params, loss, eigenvalues_P):
    run = jax.jit(
        lambda p: curvature.hessian_spectrum(
            curvature.hessian_product(loss, p), p, KEY, iterations=36, vectors=2
        )
    )
    spectrum = run(params)
    for values_K in spectrum.values_RK:
        np.testing.assert_allclose(values_K, eigenvalues_P, atol=1e-4)
    assert float(spectrum.top) == pytest.approx(eigenvalues_P[-1], rel=1e-4)
    assert float(spectrum.bottom) == pytest.approx(eigenvalues_P[0], abs=1e-4)
    np.testing.assert_allclose(jnp.sum(spectrum.weights_RK, 1), 1, rtol=1e-4)
    at_G = jnp.linspace(-10, 12, 1101)
    density_G = curvature.density(spectrum, at_G, 0.2)
    assert float(jnp.sum(density_G) * 0.02) == pytest.approx(1, rel=1e-2)


def test_few_iterations_give_the_ends(params, loss, eigenvalues_P):
    product = curvature.difference_product(loss, params)
    spectrum = curvature.hessian_spectrum(product, params, KEY, iterations=12)
    assert float(spectrum.top) == pytest.approx(eigenvalues_P[-1], rel=2e-3)
    assert float(spectrum.bottom) == pytest.approx(eigenvalues_P[0], abs=2e-2)
    exact, about = curvature.hessian_product(loss, params)(params), product(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3), exact, about)


def test_gradient_covariance(params, x_NI):
    def example_loss(params, example):
        x_I, y_O = example
        return jnp.sum(jnp.square(apply(params, x_I[None])[0] - y_O))

    y_NO = jnp.sign(x_NI[:, :2])
    products_NN = curvature.gradient_products(example_loss, params, (x_NI, y_NO))
    grads_NP = np.stack(
        [
            jax.flatten_util.ravel_pytree(jax.grad(example_loss)(params, (x, y)))[0]
            for x, y in zip(x_NI, y_NO, strict=True)
        ]
    )
    np.testing.assert_allclose(products_NN, grads_NP @ grads_NP.T, rtol=1e-4, atol=1e-4)
    cosines_NN = curvature.cosines(products_NN)
    np.testing.assert_allclose(np.diag(cosines_NN), 1, rtol=1e-5)
    below = (np.corrcoef(grads_NP) * 0 + (grads_NP @ grads_NP.T)) < 0
    assert 0 < below.sum() < 90
    assert float(curvature.negative_share(cosines_NN)) == pytest.approx(below.sum() / 90)
    opposite = curvature.cosines(jnp.array([[4.0, -2.0, 0.0], [-2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert opposite[0].tolist() == [1.0, -1.0, 0.0]
    assert float(curvature.negative_share(opposite)) == pytest.approx(1 / 3)


def test_tangent_kernel(params, x_NI):
    kernel_NN = curvature.tangent_kernel(apply, params, x_NI)
    jacobian = jax.jacrev(lambda p: apply(p, x_NI))(params)
    flat_NOP = jnp.concatenate([leaf.reshape(10, 2, -1) for leaf in jax.tree.leaves(jacobian)], -1)
    np.testing.assert_allclose(
        kernel_NN, jnp.einsum("nop,mop->nm", flat_NOP, flat_NOP) / 2, rtol=1e-4, atol=1e-4
    )
    scalar = curvature.tangent_kernel(lambda p, x: apply(p, x)[:, 0], params, x_NI)
    assert scalar.shape == (10, 10)
    assert 1 < float(curvature.kernel_rank(kernel_NN)) < 10
    assert float(curvature.kernel_rank(jnp.eye(5))) == pytest.approx(5)
    assert float(curvature.kernel_rank(jnp.ones((5, 5)))) == pytest.approx(1, rel=1e-3)


def test_the_loss_of_an_arbitrary_target(params, x_NI):
    loss = curvature.arbitrary_target_loss(apply, x_NI, KEY)
    noise = jax.random.normal(KEY, (10, 2))
    assert float(loss(params)) == pytest.approx(float(jnp.mean(jnp.square(noise))), rel=1e-5)
    fixed = apply(params, x_NI) - noise
    plain = jax.grad(lambda p: jnp.mean(jnp.square(apply(p, x_NI) - fixed)))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), jax.grad(loss)(params), plain
    )


def test_what_cannot_be(params, loss, monkeypatch):
    product = curvature.hessian_product(loss, params)
    with pytest.raises(UserError, match=r"50 Lanczos iterations for 36 parameters"):
        curvature.hessian_spectrum(product, params, KEY, iterations=50)
    with pytest.raises(UserError, match=r"1 example: .* give at least 2"):
        curvature.negative_share(jnp.ones((1, 1)))
    monkeypatch.setitem(sys.modules, "matfree", None)
    with pytest.raises(MissingExtra, match=r"griffin-lm\[eval\]"):
        curvature.hessian_spectrum(product, params, KEY, iterations=5)
