# SPDX-License-Identifier: Apache-2.0
"""A document and its loss mask."""

import numpy as np

from training.data.document import Document, count_pairs


def test_the_mask_of_a_document_goes_where_its_ids_go():
    document = Document(np.arange(4), np.array([True, False, True, True]))
    assert document.learned_targets == 2  # the first id is no target
    part = document.cut(1, 3)
    assert part.ids.tolist() == [1, 2]
    assert part.learned is not None
    assert part.learned.tolist() == [False, True]
    assert Document(np.arange(4)).cut(1, None).learned_targets == 2
    assert Document(np.zeros(0, np.int32)).learned_targets == 0


def test_pairs_are_one_less_than_ids():
    assert count_pairs(np.array([0, 1, 2, 5], np.uint32)) == 5
    assert count_pairs(np.array([2**32 - 1] * 3, np.uint32)) == 3 * (2**32 - 2)
