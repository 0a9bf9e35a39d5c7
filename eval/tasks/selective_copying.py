# SPDX-License-Identifier: Apache-2.0
"""Selective copying (Griffin paper, section 6.2 and appendix H; from Gu and Dao, 2023).

16 data tokens stand at random places among noise. After all of it come 16 marks, and at mark i the
model has to give data token i: it must keep what matters, in its order, and let the noise go.

    tokens   . . 7 . . . 3 . . . . 7 . ! ! !        answers  7 3 7

The paper says neither which of its 16 ids are noise nor what stands where the answer is due. Here
id 0 is noise, 15 the mark and 1 to 14 are data; the marks count in the length.

B batch, T time (the length), A answers.
"""

import jax
import jax.numpy as jnp

NOISE, MARK = 0, 15
ANSWERS = 16  # data tokens of each sequence
SHORTEST = 2 * ANSWERS


def draw(key: jax.Array, batch_size: int, length: int) -> tuple[jax.Array, jax.Array]:
    """(tokens_BT, answers_BA): what the model has to give at the last A tokens."""
    assert length >= SHORTEST, length
    places_key, data_key = jax.random.split(key)
    before = length - ANSWERS
    chance_BT = jax.random.uniform(places_key, (batch_size, before))
    places_BA = jnp.sort(jax.lax.top_k(chance_BT, ANSWERS)[1], axis=1)
    answers_BA = jax.random.randint(data_key, (batch_size, ANSWERS), 1, MARK)
    tokens_BT = jnp.full((batch_size, length), NOISE, jnp.int32).at[:, before:].set(MARK)
    rows_B1 = jnp.arange(batch_size)[:, None]
    return tokens_BT.at[rows_B1, places_BA].set(answers_BA), answers_BA
