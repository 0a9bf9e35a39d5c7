# SPDX-License-Identifier: Apache-2.0
"""Contrasts beside loops in float64. Over devices: test_objectives.py."""

import jax
import numpy as np

from tests.training.recipes.sparc.small_pairs import (
    COUNTS,
    MASK_BL,
    SCALE,
    embeddings,
    log_softmax,
    unit,
)
from training.recipes.sparc.contrast import (
    global_contrast,
    masked_mean,
    over_batch,
    rows_before,
    within_rows,
)
from training.recipes.sparc.contrast import unit as unit_of_jax

PAIRS = embeddings()


def test_global_contrast_is_clips():
    image, text = (unit(x.astype(np.float64)) for x in (PAIRS.image_BD, PAIRS.text_BD))
    logits = SCALE * image @ text.T
    expected = -(np.diag(log_softmax(logits)) + np.diag(log_softmax(logits.T))).mean() / 2
    loss = jax.jit(global_contrast)(PAIRS.image_BD, PAIRS.text_BD, SCALE)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_padding_does_not_count_within_rows():
    """Values, and the gradient at padding, which is 0, and not NaN."""
    left, right = PAIRS.tokens_BLD, embeddings(1).tokens_BLD

    def loss_of(left, right):
        losses = [
            within_rows(left, right, MASK_BL, SCALE, averaging=how) for how in ("caption", "batch")
        ]
        return losses[0], losses

    gradients = jax.jit(jax.value_and_grad(loss_of, (0, 1), has_aux=True))
    (_, losses), grads = gradients(left, right)
    nll = []
    for l_LD, r_LD, words in zip(left, right, MASK_BL, strict=True):
        logits = SCALE * unit(l_LD[words].astype(float)) @ unit(r_LD[words].astype(float)).T
        nll.append(-(np.diag(log_softmax(logits)) + np.diag(log_softmax(logits.T))) / 2)
    expected = [np.mean([n.mean() for n in nll]), np.concatenate(nll).mean()]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert abs(expected[0] - expected[1]) > 0.01
    other = [np.where(MASK_BL[..., None], x, 99.0).astype(np.float32) for x in (left, right)]
    np.testing.assert_allclose(gradients(*other)[0][1], losses, rtol=1e-6)
    for grad in grads:
        assert np.abs(np.asarray(grad)[MASK_BL]).max() > 1e-4
        np.testing.assert_array_equal(np.asarray(grad)[~MASK_BL], 0.0)


def test_small_parts():
    x_BLD = PAIRS.tokens_BLD

    @jax.jit
    def parts(x_BLD, zero):
        of_zero = jax.grad(lambda x: unit_of_jax(x).sum())(zero)
        return masked_mean(x_BLD, MASK_BL), rows_before(x_BLD), of_zero, over_batch(zero)

    means, before, of_zero, nll = parts(x_BLD, np.zeros((3, 3), np.float32))
    expected = [row[:count].mean(0) for row, count in zip(x_BLD, COUNTS, strict=True)]
    np.testing.assert_allclose(means, expected, atol=1e-6)
    np.testing.assert_array_equal(before, np.roll(x_BLD, 1, 0))
    assert np.isfinite(of_zero).all()
    np.testing.assert_allclose(nll, np.log(3), rtol=1e-6)
