# SPDX-License-Identifier: Apache-2.0
"""The first tokens of documents, cut into rows that a model reads each from an empty state."""

import numpy as np

from eval.documents import Documents
from recurrentgemma.errors import UserError
from recurrentgemma.losses import Batch


def first_rows(documents: Documents, *, tokens: int, length: int) -> Batch:
    """Rows of `length` tokens, at least so many in all if there is so much text, of documents one
    after the other in the order of their numbers. NumPy arrays. Where a row cuts a document, the
    rest begins anew at position 0, as in training; the last row may end in padding.

    Raises UserError: there is no text, or a number below 1.
    """
    if tokens < 1 or length < 1:
        raise UserError(f"{tokens} tokens in rows of {length}: expected at least 1 of each")
    wanted = -(-tokens // length) * length
    pieces: list[tuple[np.ndarray, ...]] = []
    left = wanted
    for number in range(len(documents)):
        document = documents.read(number).document.cut(0, left + 1)
        count = len(document.ids) - 1
        if count < 1:
            continue
        learned = np.ones(count) if document.learned is None else document.learned[1:]
        pieces.append((document.ids[:-1], document.ids[1:], learned, np.arange(count)))
        left -= count
        if left < 1:
            break
    if not pieces:
        raise UserError("there is no text to read: give at least one document that is not empty")
    tokens_M, targets_M, weights_M, positions_M = map(np.concatenate, zip(*pieces, strict=True))
    rows = -(-len(tokens_M) // length)
    padding = (0, rows * length - len(tokens_M))

    def cut(x_M: np.ndarray, dtype: type, outside: int = 0) -> np.ndarray:
        return np.pad(x_M.astype(dtype), padding, constant_values=outside).reshape(rows, length)

    positions_RT = cut(positions_M, np.int32, -1)
    from_start_RT = np.minimum(positions_RT, np.arange(length, dtype=np.int32)[None])
    arrays = (
        *(cut(tokens_M, np.int32), cut(targets_M, np.int32), cut(weights_M, np.float32)),
        from_start_RT,
    )
    return Batch(*arrays)  # type: ignore[arg-type]
