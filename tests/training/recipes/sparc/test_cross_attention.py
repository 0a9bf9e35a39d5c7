# SPDX-License-Identifier: Apache-2.0
"""MGCA's alignment beside a loop over pairs."""

import jax
import numpy as np

from tests.training.recipes.sparc.small_pairs import (
    MASK_BL,
    SCALE,
    WIDTH,
    embeddings,
    log_softmax,
    unit,
)
from training.recipes.sparc.cross_attention import cross_attention_loss, init_projections


def test_values_are_those_of_a_loop_over_pairs():
    pairs = embeddings()
    init = jax.jit(init_projections, static_argnums=1)
    projections = jax.tree.map(np.asarray, init(jax.random.key(0), WIDTH))
    assert {w.shape for w in projections.values()} == {(2, WIDTH, WIDTH)}
    losses: list[list[float]] = [[], []]
    rows = zip(pairs.patches_BPD, pairs.tokens_BLD, MASK_BL, strict=True)
    for patches, tokens, words in rows:
        pair = tokens[words].astype(float), patches.astype(float)
        for number, (x, y) in enumerate((pair, pair[::-1])):
            w = {name: matrices[number].astype(float) for name, matrices in projections.items()}
            logits = (x @ w["query"]) @ (y @ w["key"]).T / np.sqrt(WIDTH)
            seen = np.exp(log_softmax(logits)) @ (y @ w["value"]) @ w["out"]
            fits = SCALE * unit(seen) @ unit(x).T
            both = np.diag(log_softmax(fits)) + np.diag(log_softmax(fits.T))
            losses[number].append(-both.mean() / 2)
    loss = jax.jit(cross_attention_loss)(pairs, SCALE, projections)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=2e-5)
