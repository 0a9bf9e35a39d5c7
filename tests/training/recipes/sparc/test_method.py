# SPDX-License-Identifier: Apache-2.0
"""SPARC's local loss: values beside a loop over captions, and what must change nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.recipes.sparc.small_pairs import MASK_BL, SCALE, embeddings, naive_local_loss
from training.recipes.sparc.alignment import Weigh, dense_weights, softmax_weights, sparse_weights
from training.recipes.sparc.embeddings import Embeddings
from training.recipes.sparc.method import local_loss, mismatch_gap, sparc_loss

PAIRS = embeddings()
VARIANTS: dict[Any, Weigh] = {
    ("sparse", "caption"): sparse_weights,
    ("sparse", "batch"): sparse_weights,
    ("dense", "caption"): dense_weights,
    ("softmax", "caption"): softmax_weights,
}


@jax.jit
def losses_and_gap(pairs: Embeddings):
    losses = [
        local_loss(pairs, SCALE, weigh=weigh, averaging=averaging)
        for (_, averaging), weigh in VARIANTS.items()
    ]
    return losses, mismatch_gap(pairs, SCALE)


@pytest.fixture(scope="module")
def losses() -> list[float]:
    return [float(loss) for loss in losses_and_gap(PAIRS)[0]]


def test_values_are_those_of_a_loop_over_captions(losses):
    expected = [naive_local_loss(PAIRS, SCALE, *variant) for variant in VARIANTS]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len({round(loss, 3) for loss in expected}) == len(VARIANTS)


def test_order_of_patches_and_padding_change_nothing(losses):
    turned = PAIRS._replace(patches_BPD=PAIRS.patches_BPD[:, ::-1])
    tokens = np.where(MASK_BL[..., None], PAIRS.tokens_BLD, 5.0).astype(np.float32)
    for other in (turned, PAIRS._replace(tokens_BLD=tokens)):
        np.testing.assert_allclose(losses_and_gap(other)[0], losses, rtol=1e-5)


def test_the_gap_is_the_loss_of_the_row_befores_image_less_the_loss(losses):
    wrong = PAIRS._replace(patches_BPD=np.roll(PAIRS.patches_BPD, 1, 0))
    expected = naive_local_loss(wrong, SCALE, "sparse", "caption") - losses[0]
    np.testing.assert_allclose(losses_and_gap(PAIRS)[1], expected, atol=1e-5)


def test_the_gap_of_aligned_pairs_is_large():
    """Words that are patches of their own image, and of no other."""
    random: Any = np.random.default_rng(0).normal(size=PAIRS.patches_BPD.shape)
    random = random.astype(np.float32)
    tokens: Any = np.concatenate([random, random[:, :1]], 1)
    words: Any = np.arange(tokens.shape[1])[None].repeat(len(tokens), 0) < random.shape[1]
    pairs = Embeddings(random, tokens, words, PAIRS.image_BD, PAIRS.text_BD)
    assert losses_and_gap(pairs)[1] > 0.3


def test_the_whole_loss_and_its_gradient():
    """Finite where all similarities are equal, too; nothing flows into padding."""

    def loss_of(pairs, scale):
        pairs = pairs._replace(words_BL=MASK_BL)
        loss, terms = sparc_loss(pairs, scale, local_weight=5.0)
        return loss, terms

    gradients = jax.jit(jax.value_and_grad(loss_of, (0, 1), has_aux=True))
    pairs = PAIRS._replace(words_BL=jnp.zeros(()))
    (loss, terms), (grads, of_scale) = gradients(pairs, SCALE)
    np.testing.assert_allclose(loss, 0.5 * terms["global"] + 5.0 * terms["local"], rtol=1e-6)
    assert np.abs(of_scale) > 1e-4
    np.testing.assert_array_equal(np.asarray(grads.tokens_BLD)[~MASK_BL], 0.0)
    flat = pairs._replace(patches_BPD=np.ones_like(PAIRS.patches_BPD))
    grads, _ = gradients(flat, SCALE)[1]
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))
