# SPDX-License-Identifier: Apache-2.0
"""Packing loses no pair and mixes no documents."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.data.small_documents import (
    documents_of,
)
from training.data.batches import Batches, PackedRows, pack, padding
from training.data.document import Document, count_pairs
from training.data.documents import InMemory, Mixture
from training.data.packing import MAX_POSITION, make_row


def check_rows(rows: PackedRows, documents: list[np.ndarray]) -> None:
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
    for number in range(2):
        assert batches.epoch == pytest.approx(number)
        drawn = [next(batches) for _ in range(rows)]
        epochs.append(PackedRows(*(np.concatenate(field) for field in zip(*drawn, strict=True))))
    check_rows(epochs[0], [documents[i] for i in (0, 1, 3, 4)])
    check_rows(epochs[1], [documents[i] for i in (0, 1, 3, 4)])
    assert not np.array_equal(epochs[0].tokens_RT, epochs[1].tokens_RT)
    assert batches.padding_fraction == pytest.approx(3 / 128)
    assert sorted(padding(batch) for batch in drawn) == [0.0] * 15 + [3 / 8]


class Huge(InMemory):
    """Documents of so many ids, of which only the pieces exist that are read."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__([])
        self.lengths = np.array(lengths, np.uint32)
        self.typical_length = float(self.lengths.mean())

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        assert stop is not None
        return Document(np.arange(start, stop) % 1000)


def test_counters_of_pairs_and_rows_go_beyond_32_bits():
    lengths = [2**32 - 1, 2**32 - 1, 1, 0, 3]
    assert count_pairs(np.array(lengths, np.uint32)) == 2**33 - 2
    batches = Batches(
        Mixture((Huge(lengths), Huge(lengths)), (1.0, 2.0)), batch_size=2, row_length=2**18, seed=0
    )
    state = batches.state()
    for next_row in (2**31 - 2, 2**40):
        batches.restore({**state, "next_row": next_row})
        batch = next(batches)
        real = np.asarray(batch.weights_BT) == 1
        assert ((np.asarray(batch.targets_BT) - batch.tokens_BT)[real] % 1000 == 1).all()
        assert batches.state()["next_row"] == next_row + 2
        pairs = (next_row + 2) * 2**18 * np.array([1, 2]) / 3
        np.testing.assert_allclose(batches.epochs, pairs / 2**33)
    batches.close()


def test_a_document_too_long_to_be_carried_is_refused():
    piece = Document(np.arange(5))
    row = make_row([(piece, MAX_POSITION - 5)], 4)
    assert row.positions_RT.tolist() == list(range(2**31 - 6, 2**31 - 2))
    with pytest.raises(ValueError, match=r"more than 2,147,483,647 tokens.*long_documents='cut'"):
        make_row([(piece, MAX_POSITION - 4)], 4)
