# SPDX-License-Identifier: Apache-2.0
"""The first rows of documents: each pair once, positions as in training, padding at the end."""

import numpy as np
import pytest

from eval.diagnostics.rows import first_rows
from eval.documents import InMemory
from recurrentgemma.errors import UserError
from training.data.document import Document
from training.data.held_out import HeldOut


def documents(*lists: list[int]) -> InMemory:
    return InMemory(HeldOut("d", Document(np.array(ids, np.int32)), 1) for ids in lists)


def test_documents_one_after_the_other():
    rows = first_rows(documents([1, 2, 3], [7], [4, 5, 6, 7, 8]), tokens=50, length=4)
    assert np.asarray(rows.tokens_BT).tolist() == [[1, 2, 4, 5], [6, 7, 0, 0]]
    assert np.asarray(rows.targets_BT).tolist() == [[2, 3, 5, 6], [7, 8, 0, 0]]
    assert np.asarray(rows.positions_BT).tolist() == [[0, 1, 0, 1], [0, 1, -1, -1]]
    assert np.asarray(rows.weights_BT).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_as_many_tokens_as_are_wanted_and_only_what_is_learned():
    learned = Document(np.arange(20, dtype=np.int32), np.arange(20) > 3)
    rows = first_rows(InMemory([HeldOut("d", learned, 1)]), tokens=7, length=5)
    assert np.asarray(rows.positions_BT).tolist() == [[0, 1, 2, 3, 4]] * 2
    assert np.asarray(rows.weights_BT).tolist() == [[0, 0, 0, 1, 1], [1] * 5]


def test_nothing_to_read():
    with pytest.raises(UserError, match="no text to read"):
        first_rows(documents([1], []), tokens=5, length=2)
    with pytest.raises(UserError, match="0 tokens in rows of 2"):
        first_rows(documents([1, 2]), tokens=0, length=2)
