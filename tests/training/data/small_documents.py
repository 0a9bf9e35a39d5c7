# SPDX-License-Identifier: Apache-2.0
"""Documents small enough to see in a batch where each token comes from."""

import time

import numpy as np

from training.data.batches import Batch, Batches, PackedRows
from training.data.document import Document
from training.data.documents import InMemory, Mixture


def documents_of(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose ids are all different, so that a pair tells where it comes from."""
    starts = np.cumsum([0, *lengths[:-1]])
    return [np.arange(s, s + n, dtype=np.int32) for s, n in zip(starts, lengths, strict=True)]


class OnTheFly(InMemory):
    """Documents whose lengths only reading tells, as text has them; some take their time."""

    def __init__(self, documents: list[np.ndarray]) -> None:
        super().__init__(documents)
        self.lengths = None  # type: ignore[assignment]

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        if document % 7 == 0:
            time.sleep(1e-4)
        return super().read(document, start, stop)


def on_the_fly(*lengths: list[int], weights: tuple[float, ...] = (1.0,)) -> Mixture:
    return Mixture(
        tuple(OnTheFly(documents_of(source_lengths)) for source_lengths in lengths), weights
    )


def take(batches: Batches, count: int) -> PackedRows:
    drawn = [next(batches) for _ in range(count)]
    return PackedRows(*(np.stack(field) for field in zip(*drawn, strict=True)))


def assert_equal(one: PackedRows | Batch, other: PackedRows | Batch) -> None:
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
