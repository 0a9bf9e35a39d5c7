# SPDX-License-Identifier: Apache-2.0
"""Retrieval, classification, swaps and K-precision on embeddings whose answer is known."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.sparc import metrics

EYE = np.eye(4)


def test_retrieval_of_several_captions():
    image_ND = EYE[:3]
    text_MD = np.array([EYE[0], EYE[1] + 0.1 * EYE[0], EYE[0] + 2 * EYE[1], EYE[2]])
    recalls = metrics.retrieval(image_ND, text_MD, np.array([0, 1, 0, 2]), at=(1, 2))
    # Image 0's first caption is nearest; its second one, nearer to image 1, finds that first.
    assert recalls == {"i2t R@1": 1.0, "i2t R@2": 1.0, "t2i R@1": 0.75, "t2i R@2": 1.0}
    # Image 1's own caption is only second when the wrong one is nearer.
    text_MD[1] = EYE[1] + EYE[3]
    recalls = metrics.retrieval(image_ND, text_MD, np.array([0, 1, 0, 2]), at=(1, 2))
    assert recalls["i2t R@1"] == pytest.approx(2 / 3)
    assert recalls["i2t R@2"] == 1.0


def test_one_embedding_for_everything_retrieves_nothing():
    same = np.ones((7, 3))
    assert set(metrics.retrieval(same, same, np.arange(7)).values()) == {0.0}
    assert metrics.zero_shot_accuracy(same, same[:2], np.zeros(7, int)) == 0.0
    assert metrics.swap_accuracy(same, same, same) == 0.0


def test_a_caption_of_no_image_is_refused():
    with pytest.raises(UserError, match="expected each of the 2 images 0 to 1 to have a caption"):
        metrics.retrieval(EYE[:2], EYE[:2], np.array([0, 2]))


def test_classification_by_prompts():
    prompts_CKD = np.array([[EYE[0], EYE[0] + 0.5 * EYE[1]], [5 * EYE[1], EYE[1]]])
    class_CD = metrics.class_embeddings(prompts_CKD)
    np.testing.assert_allclose(np.linalg.norm(class_CD, axis=-1), 1.0)
    image_ND = np.array([EYE[0], EYE[1], EYE[0] + 3 * EYE[1], EYE[0]])
    accuracy = metrics.zero_shot_accuracy(image_ND, class_CD, np.array([0, 1, 1, 1]))
    assert accuracy == 0.75


def test_swaps_and_nearest_captions():
    assert metrics.swap_accuracy(EYE[:2], EYE[:2], EYE[[1, 1]]) == 0.5
    assert metrics.nearest_captions(EYE[:2], EYE[::-1]).tolist() == [3, 2]


def test_k_precision():
    retrieved = [["a", "red", "cat"], ["a", "dog"]]
    truths = [{"a", "cat", "sat"}, {"one", "cat"}]
    assert metrics.k_precision(retrieved, truths) == pytest.approx((2 / 3 + 0) / 2)
    assert metrics.k_precision(retrieved, truths, counted={"red", "cat"}) == 0.5
    with pytest.raises(UserError, match="K-precision of no words"):
        metrics.k_precision(retrieved, truths, counted={"bird"})
