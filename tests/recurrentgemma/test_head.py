# SPDX-License-Identifier: Apache-2.0
"""The gradients of the loss with respect to the logits, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import platform
from recurrentgemma import head
from tests.kernels.compare import draw

TOKENS, WIDTH, VOCAB, Z_LOSS = 5, 4, 7, 0.3


@pytest.mark.parametrize("soft_cap", [None, 30.0, 60.0])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_the_normaliser_whole_and_in_parts(soft_cap, size):
    """Of logits at the soft cap's two ends, too."""
    raw_MV = size * draw(0, TOKENS, 12).at[0].set(-1).at[1].set(1)
    logits_MV = raw_MV if soft_cap is None else soft_cap * jnp.tanh(raw_MV / soft_cap)
    exact_MV = np.asarray(logits_MV, np.float64)
    most_M = exact_MV.max(1)
    expected_M = most_M + np.log(np.exp(exact_MV - most_M[:, None]).sum(1))
    np.testing.assert_allclose(head.log_normaliser(logits_MV, soft_cap), expected_M, rtol=3e-6)
    top_M, sum_M = head.normaliser_start(TOKENS, soft_cap)
    for part in jnp.split(logits_MV, 3, axis=1):
        top_M, sum_M = head.add_to_normaliser(top_M, sum_M, part, soft_cap)
    np.testing.assert_allclose(top_M + jnp.log(sum_M), expected_M, rtol=3e-6)


def test_a_token_picks_its_logit_on_every_platform():
    logits_MV, row_M = draw(0, TOKENS, VOCAB), jnp.array([0, 3, 6, 3, 2])
    with platform.lowering_for("tpu"):
        summed_M = head.picked(logits_MV, row_M)
    np.testing.assert_array_equal(summed_M, head.picked(logits_MV, row_M))
    np.testing.assert_array_equal(summed_M, logits_MV[jnp.arange(TOKENS), row_M])


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_gradients_of_the_logits(soft_cap):
    """A part of the vocabulary: token 4's target lies elsewhere, and log Z is the whole's."""
    x_MD, embedding_VD = draw(0, TOKENS, WIDTH), draw(1, VOCAB, WIDTH)
    targets_M = jnp.array([0, 3, 6, 3, 2])
    here_M = jnp.array([True, True, True, True, False])
    weights_M = jnp.array([0.5, 1.0, 0.0, 2.0, 1.0])
    elsewhere_M = draw(2, TOKENS)  # log of what the other parts add to Z

    def loss(raw_MV):
        logits_MV = raw_MV if soft_cap is None else soft_cap * jnp.tanh(raw_MV / soft_cap)
        log_z_M = jnp.logaddexp(jax.nn.logsumexp(logits_MV, -1), elsewhere_M)
        target_M = jnp.take_along_axis(logits_MV, targets_M[:, None], 1)[:, 0]
        nll_M = log_z_M - jnp.where(here_M, target_M, 0)
        return head.loss(nll_M, log_z_M, weights_M, Z_LOSS), log_z_M

    raw_MV = x_MD @ embedding_VD.T
    (_, log_z_M), want_MV = jax.value_and_grad(loss, has_aux=True)(raw_MV)
    logits_MV = head.capped_logits(x_MD, embedding_VD, soft_cap)
    got_MV = head.logit_gradients(
        logits_MV, log_z_M, weights_M, (targets_M, here_M), soft_cap, Z_LOSS
    )
    np.testing.assert_allclose(got_MV, want_MV, rtol=0, atol=1e-5)


def test_backward_gives_each_argument_what_is_its_own():
    nll_M, log_z_M = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0])
    d_x_MD, d_embedding_VD = draw(0, 2, 3), draw(1, 4, 3).astype(jnp.bfloat16)
    given = (jnp.float32(2.0), None, None)
    x, embedding, targets, weights = head.backward(
        Z_LOSS, (d_x_MD, d_embedding_VD, nll_M, log_z_M), given
    )
    np.testing.assert_allclose(x, 2 * d_x_MD)
    assert embedding.dtype == jnp.bfloat16
    np.testing.assert_array_equal(embedding, 2 * d_embedding_VD)
    assert targets is None
    np.testing.assert_allclose(weights, 2 * (nll_M + Z_LOSS * log_z_M**2))
