# SPDX-License-Identifier: Apache-2.0
"""A batch of images and captions, and what a bad one is.

    batch = pair_batch(images_BHWC, ids_BL, mask_BL, vocab_size=32_000, length=55)

Legend: B rows, H W C of an image, L tokens.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from recurrentgemma.errors import UserError


class PairBatch(NamedTuple):
    """images_BHWC: float, as the tower wants them, such as -1 to 1. mask_BL: the caption's tokens;
    the rest is padding on the right. words_BL: those that local losses read. NumPy's
    arrays do, too."""

    images_BHWC: jax.Array  # float32
    ids_BL: jax.Array  # int32
    mask_BL: jax.Array  # bool
    words_BL: jax.Array  # bool


def pair_batch(
    images: ArrayLike,
    ids: ArrayLike,
    mask: ArrayLike,
    words: ArrayLike | None = None,
    *,
    vocab_size: int,
    length: int,
) -> PairBatch:
    """A batch whose values are known, checked.

    words: the caption's words, without special tokens; all of its tokens by default.

    Raises:
      UserError: shapes do not fit together, an image is not float [H, W, 3], a caption is empty or
        longer than the `length` of the text tower, its padding is not on the right, a token is
        outside the vocabulary, a row has no word, or words lie outside the caption.
    """
    images_BHWC, ids_BL, mask_BL = (
        np.asarray(images),
        np.asarray(ids),
        np.asarray(mask).astype(bool),
    )
    words_BL = mask_BL if words is None else np.asarray(words).astype(bool)
    if images_BHWC.ndim != 4 or images_BHWC.shape[-1] != 3:
        raise UserError(f"images of shape {images_BHWC.shape}: expected [rows, height, width, 3]")
    if not np.issubdtype(images_BHWC.dtype, np.floating):
        raise UserError(f"images of {images_BHWC.dtype}: expected floats; scale the pixels")
    shape = (len(images_BHWC), *ids_BL.shape[1:])
    for name, array in (("ids", ids_BL), ("mask", mask_BL), ("words", words_BL)):
        if array.ndim != 2 or array.shape != shape:
            raise UserError(
                f"{name} of shape {array.shape}: expected [{len(images_BHWC)} images, tokens], "
                "the same for ids, mask and words"
            )
    count_B = mask_BL.sum(1)
    _refuse(count_B == 0, "an empty caption: leave the pair out")
    _refuse(
        count_B > length,
        f"a caption of {count_B.max()} tokens: the text tower takes {length}; cut it, or build the "
        f"tower with length={count_B.max()}",
    )
    right_BL = np.arange(mask_BL.shape[1])[None] < count_B[:, None]
    _refuse((mask_BL != right_BL).any(1), "the mask has gaps: padding goes to the right")
    _refuse(
        (mask_BL & ((ids_BL < 0) | (ids_BL >= vocab_size))).any(1),
        f"a token outside of the vocabulary of {vocab_size:,}",
    )
    _refuse((words_BL & ~mask_BL).any(1), "words outside of the caption's mask")
    _refuse(~words_BL.any(1), "a caption without words: leave the pair out")
    cut = slice(0, length)  # columns of nothing but padding
    real_BL = np.where(mask_BL, ids_BL, 0).astype(np.int32)
    arrays: Any = (
        images_BHWC.astype(np.float32),
        *(x[:, cut] for x in (real_BL, mask_BL, words_BL)),
    )
    return PairBatch(*arrays)


def _refuse(bad_B: Any, problem: str) -> None:
    if bad_B.any():
        raise UserError(f"row {int(np.argmax(bad_B))}: {problem}")
