# SPDX-License-Identifier: Apache-2.0
"""Spans score every target of a document once, from as much text before it as they promise."""

import dataclasses

import pytest

from eval.windows import Pieces, Windows, check_document, check_window, whole
from recurrentgemma.errors import UserError
from recurrentgemma.presets import GRIFFIN, MQA, tiny


@pytest.mark.parametrize("ids", [0, 1, 2, 8, 9, 10, 23, 100])
@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (1, 1), (200, 50)])
def test_windows_score_each_target_once(ids: int, length: int, stride: int):
    scored = []
    for number, span in enumerate(Windows(length, stride)(ids)):
        assert span.stop - span.start <= length + 1
        assert span.first == span.start
        if number:
            assert span.scored - span.start >= length - stride + 1  # tokens before it
        scored += range(span.scored, span.stop)
    assert scored == list(range(1, ids))


def test_pieces_are_whole_and_begin_anew():
    spans = Pieces(10)(35)
    assert [(s.start, s.stop, s.scored, s.first, s.piece) for s in spans] == [
        *((0, 11, 1, 0, 0), (10, 21, 11, 0, 1), (20, 31, 21, 0, 2)),
    ]
    assert len(Pieces(10, most=2)(35)) == 2
    assert Pieces(10)(10) == Pieces(10)(0) == []
    assert whole(5) == ((0, 5, 1, 0, 0),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Windows(0, 1), "windows of 0 tokens"),
        (lambda: Windows(8, 0), "expected a stride from 1 to 8"),
        (lambda: Windows(8, 9), "expected a stride from 1 to 8"),
        (lambda: Pieces(0), "pieces of 0 tokens"),
        (lambda: Pieces(5, most=0), "0 pieces of 5 tokens"),
    ],
)
def test_what_cannot_be_is_refused(make, message: str):
    with pytest.raises(UserError, match=message):
        make()


def test_what_global_attention_cannot_hold_is_refused():
    griffin = dataclasses.replace(tiny(), context_length=64, pattern=GRIFFIN)
    mqa = dataclasses.replace(griffin, pattern=MQA)
    check_window(griffin, 65)
    check_window(mqa, 64)
    check_document(griffin, "book.txt", 10**9)
    check_document(mqa, "book.txt", 64)
    with pytest.raises(UserError, match="windows of 65 tokens are longer than the context_length"):
        check_window(mqa, 65)
    with pytest.raises(UserError, match=r"book.txt has 65 tokens.* --window 64 --stride 32"):
        check_document(mqa, "book.txt", 65)
