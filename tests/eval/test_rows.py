# SPDX-License-Identifier: Apache-2.0
"""Rows read every pair of every span once and in order, without padding while documents last."""

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from eval import rows as rows_module
from eval.rows import Rows
from eval.windows import Pieces, Windows, whole
from training.data.document import Document
from training.data.held_out import HeldOut

LENGTHS = [40, 0, 1, 2, 7, 300, 3, 3, 90, 12, 5, 64]


def documents_of(lengths: list[int], masked: bool = False) -> list[HeldOut]:
    """Ids that tell their document (in the hundreds of thousands) and their place."""
    random = np.random.default_rng(0)
    return [
        HeldOut(
            str(number),
            Document(
                np.arange(length, dtype=np.int32) + 100_000 * number,
                random.random(length) < 0.5 if masked else None,
            ),
            length,
        )
        for number, length in enumerate(lengths)
    ]


def rows_of(documents: list[HeldOut], **given) -> Rows:
    options: dict[str, Any] = {"batch_size": 4, "chunk_length": 16, "window": 8, **given}
    return Rows(iter(enumerate(documents)), read=documents.__getitem__, **options)


def read(rows: Rows) -> dict:
    """(document, piece) -> its targets in order, checking each chunk on the way."""
    targets = defaultdict(list)
    while not rows.finished:
        rows.narrow()
        chunk, stretches = rows.next_chunk()
        covered = np.zeros(chunk.tokens_BT.shape, bool)
        assert chunk.targets_BT is not None
        assert chunk.positions_BT is not None
        for number, span, row, column, start, count, learned_T in stretches:
            columns = slice(column, column + count)
            assert not covered[row, columns].any()
            covered[row, columns] = True
            ids = chunk.tokens_BT[row, columns]
            np.testing.assert_array_equal(chunk.targets_BT[row, columns], ids + 1)
            assert (ids // 100_000 == number).all()
            np.testing.assert_array_equal(
                chunk.positions_BT[row, columns], np.arange(start, start + count)
            )
            place = chunk.targets_BT[row, columns] % 100_000
            assert place[0] == span.start + start + 1
            keep = np.ones(count, bool) if learned_T is None else learned_T
            targets[number, span.piece] += place[keep].tolist()
        np.testing.assert_array_equal(covered, chunk.positions_BT >= 0)
        np.testing.assert_array_equal(covered.sum(1), chunk.lengths_B)
        if not rows._exhausted:
            assert covered.all(), "padding while there are documents to read"
    return dict(targets)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 20])
@pytest.mark.parametrize("chunk_length", [1, 16, 512])
def test_every_pair_is_read_once(batch_size: int, chunk_length: int):
    documents = documents_of(LENGTHS)
    targets = read(rows_of(documents, batch_size=batch_size, chunk_length=chunk_length))
    assert targets == {(n, 0): list(range(1, k)) for n, k in enumerate(LENGTHS) if k > 1}


@pytest.mark.parametrize("masked", [False, True])
def test_windows_and_masks_leave_out_what_is_not_scored(masked: bool):
    documents = documents_of(LENGTHS, masked)
    targets = read(rows_of(documents, cut=Windows(20, 6)))
    for number, (_, document, _) in enumerate(documents):
        learned = document.learned
        expected = [t for t in range(1, len(document.ids)) if learned is None or learned[t]]
        assert sorted(targets.get((number, 0), [])) == expected


def test_pieces_begin_at_position_0():
    targets = read(rows_of(documents_of([100, 10, 60]), cut=Pieces(30)))
    assert targets == {
        (number, piece): list(range(30 * piece + 1, 30 * piece + 31))
        for number, piece in [(0, 0), (0, 1), (0, 2), (2, 0)]
    }


@pytest.mark.parametrize(("multiple", "shapes"), [(1, [(8, 4), (4, 8), (2, 16), (1, 32)]),
                                                  (2, [(8, 4), (4, 8), (2, 16)]),
                                                  (8, [(8, 4)])])  # fmt: skip
def test_the_batch_narrows_and_its_chunks_lengthen(multiple: int, shapes: list):
    rows = rows_of(
        documents_of([3, 3, 3, 3, 13, 13, 60, 400]),
        batch_size=8,
        chunk_length=4,
        multiple=multiple,
    )
    seen = []
    while not rows.finished:
        kept = rows.narrow()
        assert kept is None or len(kept) == rows.batch_size
        shape = rows.next_chunk()[0].tokens_BT.shape
        seen += [shape] if shape not in seen else []
    assert seen == shapes


def test_a_few_documents_take_few_rows():
    rows = rows_of(documents_of([9, 0, 9]), batch_size=64, chunk_length=4)
    assert rows.narrow() is not None
    assert rows.batch_size == 2
    assert rows.next_chunk()[0].tokens_BT.shape == (2, 8)  # no longer than what is left
    rows = rows_of(documents_of([]))
    assert rows.finished
    assert rows.narrow() is None


@pytest.mark.parametrize("cut", [whole, Windows(20, 6), Pieces(8)])
def test_rows_go_on_where_others_stood(cut):
    documents = documents_of(LENGTHS, masked=True)
    for stop in range(0, 12, 2):
        first = rows_of(documents, cut=cut)
        for _ in range(stop):
            first.narrow()
            if not first.finished:
                first.next_chunk()
        where = json.loads(json.dumps(first.where()))
        second = Rows(
            iter(list(enumerate(documents))[where["taken"] :]),
            batch_size=4,
            chunk_length=16,
            window=8,
            cut=cut,
            where=where,
            read=documents.__getitem__,
        )
        assert json.loads(json.dumps(second.where())) == where
        while not first.finished:
            np.testing.assert_equal(first.narrow(), second.narrow())
            (a, read_a), (b, read_b) = first.next_chunk(), second.next_chunk()
            np.testing.assert_equal(a._asdict(), b._asdict())
            assert [stretch[:-1] for stretch in read_a] == [stretch[:-1] for stretch in read_b]
        assert second.finished


def test_positions_go_back_as_the_states_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows_module.chunks, "LONGEST", 40)
    monkeypatch.setattr(rows_module.chunks, "wraps_by", lambda window: 3 * window)
    rows = rows_of(documents_of([200]), batch_size=1, window=8)
    firsts = []
    while not rows.finished:
        chunk, _ = rows.next_chunk()
        assert chunk.positions_BT is not None
        firsts.append(int(chunk.positions_BT[0, 0]))
    assert firsts[:6] == [0, 16, 32, 48 - 24, 40 - 24, 32]
