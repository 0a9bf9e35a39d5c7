# SPDX-License-Identifier: Apache-2.0
"""Wrong images are those of the row before, and carry no gradient."""

import jax
import numpy as np

from tests.training.recipes.sparc.small_pairs import embeddings


def test_wrong_images():
    pairs = embeddings()

    @jax.jit
    def both(pairs):
        def sums(patches_BPD):
            wrong = pairs._replace(patches_BPD=patches_BPD).with_wrong_images()
            return wrong.patches_BPD.sum(), wrong

        return jax.grad(sums, has_aux=True)(pairs.patches_BPD)

    grads, wrong = both(pairs)
    np.testing.assert_array_equal(wrong.patches_BPD, np.roll(pairs.patches_BPD, 1, 0))
    np.testing.assert_array_equal(wrong.tokens_BLD, pairs.tokens_BLD)
    np.testing.assert_array_equal(grads, 0.0)
