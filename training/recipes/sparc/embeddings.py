# SPDX-License-Identifier: Apache-2.0
"""What a pair of towers makes of a batch, and what a loss reads.

Legend: B rows, P patches, L tokens, D width of the shared space.
"""

from typing import NamedTuple

import jax

from training.recipes.sparc.contrast import rows_before


class Embeddings(NamedTuple):
    """In the shared space; none has length 1 yet.

    words_BL: the tokens that local losses read, such as all but the special ones.
    """

    patches_BPD: jax.Array  # g_v(f_v(x)_p)
    tokens_BLD: jax.Array  # g_t(f_t(y)_l)
    words_BL: jax.Array  # bool
    image_BD: jax.Array
    text_BD: jax.Array

    def with_wrong_images(self) -> "Embeddings":
        """Each caption beside the patches of the row before it, of the whole batch. Carries no
        gradient."""
        still = jax.tree.map(jax.lax.stop_gradient, self)
        return still._replace(patches_BPD=rows_before(self.patches_BPD))
