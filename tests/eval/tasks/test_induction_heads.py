# SPDX-License-Identifier: Apache-2.0
"""The answer is the token that followed the special one."""

import jax
import numpy as np
import pytest

from eval.tasks.induction_heads import SHORTEST, SPECIAL, VOCABULARY, draw


@pytest.mark.parametrize("length", [SHORTEST, 40])
def test_the_answer_follows_the_special_token(length: int):
    tokens_BT, answers_B1 = jax.device_get(draw(jax.random.key(0), 256, length))
    assert tokens_BT.shape == (256, length)
    assert tokens_BT.max() == VOCABULARY - 1
    places = set()
    for row_T, answers_1 in zip(tokens_BT, answers_B1, strict=True):
        place, last = np.flatnonzero(row_T == SPECIAL)
        assert last == length - 1
        assert row_T[place + 1] == answers_1[0] != SPECIAL
        places.add(int(place))
    assert places <= set(range(length - 2))
    assert min(places) == 0
    assert len(places) > min(length - 3, 16)
