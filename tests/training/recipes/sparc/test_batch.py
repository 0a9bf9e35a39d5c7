# SPDX-License-Identifier: Apache-2.0
"""A bad batch is refused with the row, the value and the remedy."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.sparc.batch import pair_batch

IMAGES = np.zeros((2, 4, 4, 3))
IDS = np.array([[3, 4, 0], [5, 0, 0]])
MASK = IDS > 0


def make(images=IMAGES, ids=IDS, mask=MASK, words=None, *, length: int = 3):
    return pair_batch(images, ids, mask, words, vocab_size=8, length=length)


def test_a_good_batch():
    batch = make(length=2)
    assert batch.images_BHWC.dtype == np.float32
    assert batch.ids_BL.dtype == np.int32
    assert batch.ids_BL.tolist() == [[3, 4], [5, 0]]  # a column of padding alone is cut
    assert batch.words_BL.tolist() == batch.mask_BL.tolist() == [[True, True], [True, False]]
    words = make(words=[[False, True, False], [True, False, False]]).words_BL
    assert words.sum() == 2


def test_tokens_at_padding_do_not_matter():
    batch = make(ids=np.array([[3, 4, -1], [5, 99, 99]]))
    assert batch.ids_BL.tolist() == IDS.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": [[1, 1, 0], [0, 0, 0]]}, "row 1: an empty caption: leave the pair out"),
        ({"length": 1}, "row 0: a caption of 2 tokens: the text tower takes 1; cut it, or"),
        ({"mask": [[1, 0, 1], [1, 0, 0]]}, "row 0: the mask has gaps: padding goes to the right"),
        ({"ids": [[3, 4, 0], [8, 0, 0]]}, "row 1: a token outside of the vocabulary of 8"),
        ({"words": [[0, 0, 0], [1, 0, 0]]}, "row 0: a caption without words: leave the pair out"),
        ({"words": [[1, 1, 1], [1, 0, 0]]}, "row 0: words outside of the caption's mask"),
        ({"images": np.zeros((2, 4, 4, 1))}, r"images of shape \(2, 4, 4, 1\): expected \[rows"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "images of uint8: expected floats; scale"),
        ({"ids": IDS[:1]}, r"ids of shape \(1, 3\): expected \[2 images, tokens\]"),
        ({"mask": MASK[:, :2]}, r"mask of shape \(2, 2\): expected"),
    ],
)
def test_a_bad_batch_is_refused(changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        make(**changes)
