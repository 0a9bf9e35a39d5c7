# SPDX-License-Identifier: Apache-2.0
"""FILIP, PACL and GLoRIA beside loops over pairs. Over devices: test_objectives.py."""

import jax
import numpy as np

from tests.training.recipes.sparc.small_pairs import SCALE, embeddings, log_softmax, unit
from training.recipes.sparc import pairwise

PAIRS = embeddings()
SCORES = {
    "filip": pairwise.filip_score,
    "pacl": pairwise.pacl_score,
    "gloria": pairwise.gloria_score,
}


def naive_score(name: str, patches: np.ndarray, tokens: np.ndarray, text: np.ndarray) -> tuple:
    """tokens: real ones alone."""
    if name == "filip":
        s = unit(tokens) @ unit(patches).T
        return s.max(0).mean(), s.max(1).mean()
    if name == "pacl":
        patches, text = unit(patches), unit(text)
        score = unit(np.exp(log_softmax(patches @ text)) @ patches) @ text
        return score, score
    weights = np.exp(log_softmax(4.0 * tokens @ patches.T))
    cosine = (unit(weights @ patches) * unit(tokens)).sum(-1)
    score = np.log(np.exp(5.0 * cosine).sum()) / 5.0
    return score, score


def naive_contrast(name: str) -> float:
    patches, tokens, words, _, text = (np.asarray(x) for x in PAIRS)
    scores = np.array(
        [
            [
                naive_score(name, p.astype(float), t[w].astype(float), g.astype(float))
                for t, w, g in zip(tokens, words, text, strict=True)
            ]
            for p in patches
        ]
    )
    to_texts, to_images = SCALE * scores[..., 0], SCALE * scores[..., 1].T
    return -(np.diag(log_softmax(to_texts)) + np.diag(log_softmax(to_images))).mean() / 2


def test_scores_of_all_pairs_are_those_of_a_loop():
    """Whether at once or a few rows at a time."""

    @jax.jit
    def contrasts(pairs):
        return {
            f"{name}/{at_once}": pairwise.scored_contrast(score, pairs, SCALE, at_once=at_once)
            for name, score in SCORES.items()
            for at_once in (8, 3)
        }

    losses = contrasts(PAIRS)
    for key, loss in losses.items():
        expected = naive_contrast(key.split("/")[0])
        np.testing.assert_allclose(loss, expected, rtol=2e-5, err_msg=key)
