# SPDX-License-Identifier: Apache-2.0
"""Induction heads (Griffin paper, section 6.2 and appendix H; from Gu and Dao, 2023).

Random tokens, with a special one at a random place. The last token is the special one again, and
the model has to give what followed the first: an associative recall over any distance.

    tokens   4 9 * 7 2 2 11 ... 5 3 *        answer  7

Id 0 is the special token, 1 to 15 are the others; the last token counts in the length.

B batch, T time (the length), A = 1 answer.
"""

import jax
import jax.numpy as jnp

SPECIAL, VOCABULARY = 0, 16
ANSWERS = 1
SHORTEST = 4


def draw(key: jax.Array, batch_size: int, length: int) -> tuple[jax.Array, jax.Array]:
    """(tokens_BT, answers_BA): what the model has to give at the last token."""
    assert length >= SHORTEST, length
    tokens_key, place_key = jax.random.split(key)
    tokens_BT = jax.random.randint(tokens_key, (batch_size, length), 1, VOCABULARY)
    place_B = jax.random.randint(place_key, (batch_size,), 0, length - 2)
    rows_B = jnp.arange(batch_size)
    tokens_BT = tokens_BT.at[rows_B, place_B].set(SPECIAL).at[:, -1].set(SPECIAL)
    return tokens_BT, tokens_BT[rows_B, place_B + 1][:, None]
