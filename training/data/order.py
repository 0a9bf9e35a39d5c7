# SPDX-License-Identifier: Apache-2.0
"""The endless order of a source's documents: shuffled anew each epoch, by the seed alone.

Any place in it is known without those before. Of many documents the shuffle is Grain's, a cipher on
the document's number that holds nothing (of few it would search long). Where documents are cheap to
read only in blocks (Parquet's row groups), blocks are shuffled, and then the documents of a few
neighbouring blocks, so that those blocks, once read, serve all of them.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from grain.experimental import index_shuffle

from training.data.document import Document
from training.data.documents import Documents

WINDOW_DOCUMENTS, WINDOW_BLOCKS = 4096, 4  # shuffled together, at least, of a source in blocks
FEW = 1 << 16  # the cipher's smallest domain
ROUNDS = 4  # of the cipher, as in grain.MapDataset.shuffle

Order = Callable[[int], Document]  # place -> document


def endless_order(documents: Documents, seed: int, part: int) -> Order:
    """The order of the documents of source number `part`."""
    [own] = np.random.SeedSequence(seed, spawn_key=(part,)).generate_state(1).tolist()
    if documents.blocks is None:
        shuffle = make_shuffle(len(documents), own)
    else:
        shuffle = BlockShuffle(documents.blocks, len(documents), own)
    return lambda index: documents.read(shuffle(index))


def make_shuffle(documents: int, seed: int) -> Callable[[int], int]:
    """Number -> document, epoch after epoch."""

    @lru_cache(maxsize=32)
    def permutation(epoch: int) -> np.ndarray:
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
        return random.permutation(documents)

    def document(index: int) -> int:
        epoch, place = divmod(index, documents)
        if documents < FEW:
            return int(permutation(epoch)[place])
        epoch_seed = (seed + epoch) % 2**32
        return index_shuffle(place, max_index=documents - 1, seed=epoch_seed, rounds=ROUNDS)

    return document


class BlockShuffle:
    """Number -> document, epoch after epoch. blocks: the first document of each block."""

    def __init__(self, blocks: np.ndarray, documents: int, seed: int) -> None:
        self._documents, self._seed = documents, seed
        self._starts = np.asarray(blocks, np.int64)
        self._sizes = np.diff(np.append(self._starts, documents))
        wanted = -(-WINDOW_DOCUMENTS * len(blocks) // documents)
        self._blocks_per_window = max(wanted, WINDOW_BLOCKS)
        self._epoch = lru_cache(maxsize=4)(self._make_epoch)
        self._window = lru_cache(maxsize=64)(self._make_window)

    def __call__(self, index: int) -> int:
        epoch, place = divmod(index, self._documents)
        starts = self._epoch(epoch)[1]
        window = int(np.searchsorted(starts, place, "right")) - 1
        return int(self._window(epoch, window)[place - int(starts[window])])

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the blocks, and the place where each window of them begins."""
        order = self._random(epoch).permutation(len(self._sizes))
        starts = np.cumsum(self._sizes[order]) - self._sizes[order]
        return order, starts[:: self._blocks_per_window]

    def _make_window(self, epoch: int, window: int) -> np.ndarray:
        first = window * self._blocks_per_window
        blocks = self._epoch(epoch)[0][first : first + self._blocks_per_window]
        bounds = zip(self._starts[blocks].tolist(), self._sizes[blocks].tolist(), strict=True)
        documents = np.concatenate([np.arange(start, start + size) for start, size in bounds])
        return self._random(epoch, window).permutation(documents)

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))
