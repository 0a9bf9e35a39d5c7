# SPDX-License-Identifier: Apache-2.0
"""Each row of the batch is an endless stream of documents, end to end."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.data.small_documents import (
    documents_of,
    on_the_fly,
    take,
)
from training.data.batches import Batches


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(lambda n: max(n) > 1),
    st.integers(1, 5),
    st.integers(1, 17),
    st.sampled_from(["cut", "carry"]),
)
def test_the_rows_of_a_stream_are_its_documents_end_to_end(
    lengths, batch_size, row_length, long_documents
):
    batches = Batches(
        on_the_fly(lengths),
        batch_size=batch_size,
        row_length=row_length,
        seed=1,
        long_documents=long_documents,
        threads=2,
    )
    drawn = take(batches, 12)
    assert (drawn.positions_RT >= 0).all()  # streams need no padding
    assert (drawn.weights_RT == 1).all()
    assert batches.padding_fraction == 0
    whole = {token: ids for ids in documents_of(lengths) for token in ids[:-1]}
    for row in range(batch_size):
        tokens, targets, positions = (
            drawn[field][:, row].reshape(-1).tolist() for field in (0, 1, 3)
        )
        at = 0
        while at < len(tokens):
            document = whole[tokens[at]]
            skipped = tokens[at] - document[0]
            assert skipped == 0 or (at == 0 and batch_size > len(lengths))
            ids = document[skipped:][: len(tokens) - at + 1].tolist()
            pairs = len(ids) - 1
            assert tokens[at : at + pairs] == ids[:-1]
            assert targets[at : at + pairs] == ids[1:]
            expected = list(range(pairs))
            if long_documents == "cut":  # from the document's start, or from the row's
                expected = [min(p, (at + p) % row_length) for p in range(pairs)]
            assert positions[at : at + pairs] == expected
            at += pairs


def test_streams_go_through_every_document_before_they_repeat_one():
    count, batch_size = 11, 3
    batches = Batches(on_the_fly([3] * count), batch_size=batch_size, row_length=2, seed=0)
    drawn = take(batches, 44).tokens_RT[:, :, 0] // 3  # one document a row
    order = drawn.reshape(-1)  # document number of place 0, 1, 2, ...
    epochs = order.reshape(-1, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.arange(count) + 0 * epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # anew each time
    assert batches.epoch == pytest.approx(44 * batch_size / count)


@pytest.mark.parametrize("long_documents", ["cut", "carry"])
def test_streams_that_begin_with_the_same_document_begin_at_other_places_of_it(long_documents):
    options: dict[str, Any] = {"row_length": 8, "seed": 0, "long_documents": long_documents}
    batches = Batches(on_the_fly([81]), batch_size=4, **options)
    assert batches.epoch == 0
    drawn = take(batches, 10)
    assert drawn.tokens_RT[0, :, 0].tolist() == [0, 20, 40, 60]
    assert drawn.positions_RT[0, :, 0].tolist() == [0, 0, 0, 0]  # nothing was read before them
    assert all(len({tuple(row) for row in rows}) == 4 for rows in drawn.tokens_RT)
    assert batches.epoch == 4  # 4 x 80 of 80 pairs
    for documents, batch_size in ((3, 8), (2, 2)):
        few = on_the_fly([100] * documents)
        rows = next(Batches(few, batch_size=batch_size, **options)).tokens_BT
        assert len({tuple(row) for row in np.asarray(rows)}) == batch_size


def test_the_epoch_of_streams_counts_what_was_read_of_a_document():
    batches = Batches(
        on_the_fly([101], [11] * 20, weights=(1.0, 1.0)), batch_size=1, row_length=10, seed=0
    )
    seen = []
    for _ in range(40):
        next(batches)
        seen.append(batches.epochs)
    tokens = np.array(seen) @ [100, 200]  # equal weights, to the document
    np.testing.assert_allclose(tokens, 10 * np.arange(1, 41))


def test_counters_of_documents_and_tokens_go_beyond_32_bits():
    batches = Batches(
        on_the_fly([9] * 5, [5] * 5, weights=(1.0, 1.0)), batch_size=2, row_length=4, seed=0
    )
    next(batches)
    state = json.loads(json.dumps(batches.state()))
    for stream in state["streams"]:  # source, offset, pairs, documents drawn, tokens drawn
        stream[3:5] = [number + 5 * 2**40 for number in stream[3:5]]
        stream[5:7] = [number + 2**45 for number in stream[5:7]]
    later = Batches(
        on_the_fly([9] * 5, [5] * 5, weights=(1.0, 1.0)), batch_size=2, row_length=4, seed=0
    )
    later.restore(state)
    drawn = take(later, 40)
    assert set(np.diff(drawn.positions_RT.reshape(-1))) <= {1, 0, -1, -2, -3}
    assert later.epoch > 2**41
    assert json.loads(json.dumps(later.state())) == later.state()
