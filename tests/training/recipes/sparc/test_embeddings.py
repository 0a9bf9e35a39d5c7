# SPDX-License-Identifier: Apache-2.0
"""Wrong images are those of the row before, and carry no gradient."""

import jax
import numpy as np

from tests.training.recipes.sparc.small_pairs import embeddings


def test_wrong_images():
    pairs = embeddings()
    wrong = pairs.with_wrong_images()
    np.testing.assert_array_equal(wrong.patches_BPD[1], pairs.patches_BPD[0])
    np.testing.assert_array_equal(wrong.patches_BPD[0], pairs.patches_BPD[-1])
    np.testing.assert_array_equal(wrong.tokens_BLD, pairs.tokens_BLD)

    def through(patches_BPD):
        return pairs._replace(patches_BPD=patches_BPD).with_wrong_images().patches_BPD.sum()

    np.testing.assert_array_equal(jax.grad(through)(pairs.patches_BPD), 0.0)
