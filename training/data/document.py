# SPDX-License-Identifier: Apache-2.0
"""One document: token ids and their loss mask, which tells what is learned from what is only read,
as prompts are."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Document:
    """ids: int32 [n]. learned: bool [n], the loss mask: the ids that are learned, or scored, as
    targets; None: all of them."""

    ids: np.ndarray
    learned: np.ndarray | None = None

    def cut(self, start: int, stop: int | None) -> "Document":
        """The ids [start:stop], with their mask."""
        mask = None if self.learned is None else self.learned[start:stop]
        return Document(self.ids[start:stop], mask)

    @property
    def learned_targets(self) -> int:
        """How many targets are learned. The first id is no target."""
        return max(len(self.ids) - 1, 0) if self.learned is None else int(self.learned[1:].sum())


def count_pairs(lengths: np.ndarray) -> int:
    """How many (token, target) pairs documents of these lengths have."""
    return int(np.maximum(lengths.astype(np.int64) - 1, 0).sum())
