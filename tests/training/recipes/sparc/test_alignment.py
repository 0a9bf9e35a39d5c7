# SPDX-License-Identifier: Apache-2.0
"""Weights of patches: what the paper's construction promises, whatever the similarities are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.recipes.sparc.small_pairs import PATCHES, embeddings, naive_weights
from training.recipes.sparc.alignment import (
    dense_weights,
    grouped,
    min_max,
    similarities,
    softmax_weights,
    sparse_weights,
)

KINDS = {"sparse": sparse_weights, "dense": dense_weights, "softmax": softmax_weights}


@pytest.fixture(scope="module")
def s_BLP() -> np.ndarray:
    pairs = embeddings()
    return np.einsum("bld,bpd->blp", pairs.tokens_BLD, pairs.patches_BPD)


@pytest.fixture(scope="module")
def weights(s_BLP) -> dict[str, np.ndarray]:
    """Of these similarities, and of their patches in reverse order."""

    @jax.jit
    def every(s_BLP):
        return {name: weigh(s_BLP) for name, weigh in KINDS.items()}

    turned = {f"{name} reversed": w for name, w in every(s_BLP[..., ::-1]).items()}
    return jax.tree.map(np.asarray, every(s_BLP) | turned)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_a_loop(kind: str, weights, s_BLP):
    expected = np.array([[naive_weights(s.astype(float), kind) for s in row] for row in s_BLP])
    np.testing.assert_allclose(weights[kind], expected, atol=1e-5)
    np.testing.assert_allclose(weights[kind].sum(-1), 1.0, atol=1e-6)
    assert (weights[kind].argmax(-1) == s_BLP.argmax(-1)).all()
    np.testing.assert_allclose(weights[f"{kind} reversed"][..., ::-1], weights[kind], atol=1e-6)


def test_the_threshold_is_one_over_the_patches(weights):
    kept = weights["dense"] / weights["dense"].max(-1, keepdims=True)
    below = kept < 1 / PATCHES
    assert (below & (weights["dense"] > 0)).any()
    assert (weights["sparse"][below] == 0).all()
    assert (weights["sparse"][~below] > 0).all()


def test_equal_similarities_and_a_single_patch():
    """Each patch gets 1 / P, and gradients are finite; one patch gives that patch."""

    @jax.jit
    def gradient(s_LP):
        return jax.grad(lambda s_LP: jnp.sum(sparse_weights(s_LP) * jnp.arange(4.0)[None]))(s_LP)

    s_LP = np.array([[2.5] * 4, [0.0] * 4, [0.0, 1.0, 2.0, 3.0]], np.float32)
    weights_LP = np.asarray(jax.jit(sparse_weights)(s_LP))
    np.testing.assert_array_equal(weights_LP[:2], 0.25)
    grads_LP = np.asarray(gradient(s_LP))
    assert np.isfinite(grads_LP).all()
    np.testing.assert_array_equal(grads_LP[:2], 0.0)
    assert np.abs(grads_LP[2]).max() > 0.01
    patch_BPD: Any = np.array([[[1.0, -2.0]]], np.float32)

    @jax.jit
    def alone(tokens_BLD):
        return grouped(sparse_weights(similarities(tokens_BLD, patch_BPD)), patch_BPD)

    expected = np.broadcast_to(patch_BPD, (1, 3, 2))
    np.testing.assert_array_equal(alone(np.ones((1, 3, 2), np.float32)), expected)


def test_min_max_does_not_see_shift_and_scale():
    s_P = np.array([[-3.0, 1.0, 2.0, 5.0]], np.float32)
    scaled = jax.jit(min_max)
    moved = np.asarray(scaled(1e-3 * s_P + np.float32(0.5)))
    np.testing.assert_allclose(moved, scaled(s_P), atol=1e-3)
    np.testing.assert_array_equal(moved[0, np.array([0, 3])], [0.0, 1.0])
