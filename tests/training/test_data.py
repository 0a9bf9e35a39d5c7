# SPDX-License-Identifier: Apache-2.0
"""Packing loses no pair and mixes no documents; the order is the seed's; going on is exact."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import Batches, Rows, pack


def documents_of(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose ids are all different, so that a pair tells where it comes from."""
    starts = np.cumsum([0, *lengths[:-1]])
    return [np.arange(s, s + n, dtype=np.int32) for s, n in zip(starts, lengths, strict=True)]


def check_rows(rows: Rows, documents: list[np.ndarray]) -> None:
    real = rows.positions_RT >= 0
    np.testing.assert_array_equal(rows.weights_RT, real.astype(np.float32))
    pairs = sorted(zip(rows.tokens_RT[real], rows.targets_RT[real], strict=True))
    assert pairs == sorted(p for ids in documents for p in pairwise(ids))
    first_tokens = {ids[0] for ids in documents}
    for tokens_T, positions_T in zip(rows.tokens_RT, rows.positions_RT, strict=True):
        assert positions_T[0] in (0, -1)
        for t, position in enumerate(positions_T):
            before = positions_T[t - 1] if t else -1
            if position < 0:
                assert (positions_T[t:] < 0).all()  # padding is on the right only
            elif t and tokens_T[t] not in first_tokens:
                assert position == before + 1
                assert tokens_T[t] == tokens_T[t - 1] + 1
            else:
                assert position == 0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 17))
def test_every_pair_is_packed_once_and_positions_restart(lengths, row_length):
    documents = documents_of(lengths)
    if max(lengths) < 2:
        with pytest.raises(ValueError, match="nothing to predict"):
            pack(documents, row_length)
        return
    rows = pack(documents, row_length)
    assert [field.dtype for field in rows] == [np.int32, np.int32, np.float32, np.int32]
    assert rows.tokens_RT.shape[1] == row_length
    check_rows(rows, [ids for ids in documents if len(ids) > 1])


def test_an_epoch_holds_every_pair_once_in_another_order_each_time():
    documents = documents_of([30, 2, 1, 7, 90])
    batches = Batches(documents, batch_size=1, row_length=8, seed=3)
    rows = -(-(29 + 1 + 6 + 89) // 8)
    epochs = []
    for _ in range(2):
        drawn = [next(batches) for _ in range(rows)]
        epochs.append(Rows(*(np.concatenate(field) for field in zip(*drawn, strict=True))))
    check_rows(epochs[0], [documents[i] for i in (0, 1, 3, 4)])
    check_rows(epochs[1], [documents[i] for i in (0, 1, 3, 4)])
    assert not np.array_equal(epochs[0].tokens_RT, epochs[1].tokens_RT)


def test_the_seed_decides_the_order():
    def drawn(seed: int) -> np.ndarray:
        batches = Batches(documents_of([200, 300]), batch_size=4, row_length=16, seed=seed)
        return np.stack([next(batches).tokens_BT for _ in range(20)])

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


@given(st.integers(0, 30), st.integers(1, 9))
def test_going_on_from_a_saved_state_is_exact(done, batch_size):
    def fresh() -> Batches:
        return Batches(documents_of([50, 20, 1, 64]), batch_size=batch_size, row_length=16, seed=0)

    whole, resumed = fresh(), fresh()
    for _ in range(done):
        next(whole)
    resumed.restore(json.loads(json.dumps(whole.state())))
    for _ in range(5):
        for expected, got in zip(next(whole), next(resumed), strict=True):
            np.testing.assert_array_equal(expected, got)
    assert whole.state() == resumed.state()


def test_other_data_is_not_gone_on_with():
    state = Batches(documents_of([50, 20]), batch_size=2, row_length=16, seed=0).state()
    for documents, row_length, seed in (
        (documents_of([50, 21]), 16, 0),
        (documents_of([20, 50]), 16, 0),
        (documents_of([50, 20]), 8, 0),
        (documents_of([50, 20]), 16, 1),
    ):
        other = Batches(documents, batch_size=2, row_length=row_length, seed=seed)
        with pytest.raises(ValueError, match=r"fingerprint .* has changed since"):
            other.restore(state)
