# SPDX-License-Identifier: Apache-2.0
"""The answers are the data tokens in their order, wherever they stand."""

import jax
import numpy as np

from eval.tasks.selective_copying import ANSWERS, MARK, NOISE, SHORTEST, draw


def test_the_answers_are_the_data_in_their_order():
    tokens_BT, answers_BA = jax.device_get(draw(jax.random.key(0), 8, 64))
    assert tokens_BT.shape == (8, 64)
    assert answers_BA.shape == (8, ANSWERS)
    assert (tokens_BT[:, -ANSWERS:] == MARK).all()
    before_BT = tokens_BT[:, :-ANSWERS]
    for row_T, answers_A in zip(before_BT, answers_BA, strict=True):
        assert row_T[row_T != NOISE].tolist() == answers_A.tolist()
    assert set(answers_BA.ravel()) == set(range(1, MARK))
    places = [tuple(np.flatnonzero(row_T)) for row_T in before_BT]
    assert len(set(places)) == len(places), "every sequence has places of its own"


def test_the_shortest_has_no_noise():
    tokens_BT, answers_BA = jax.device_get(draw(jax.random.key(1), 2, SHORTEST))
    assert (tokens_BT[:, :ANSWERS] == answers_BA).all()
