# SPDX-License-Identifier: Apache-2.0
"""Batches of images and captions, decoded in threads or processes and gone on with where they were.

A pair that cannot be read is left out: it is named, counted, and with too many of them reading ends
in an error.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from recurrentgemma.errors import UserError
from training.data.pairs.pair import PairSource
from training.data.pairs.pictures import square

ALLOWED = 20  # pairs that may be unreadable, whatever the share
SHOWN = 5  # of them that are named


class PairRows(NamedTuple):
    """Legend: B rows, S pixels of a side, L tokens."""

    images_BSS3: np.ndarray  # uint8
    ids_BL: np.ndarray  # int32, padded on the right
    mask_BL: np.ndarray  # bool, where the caption is


class Unreadable(NamedTuple):
    """Why a pair was left out, and where it stands."""

    reason: str


class PairLoader:
    """An iterator of PairRows; without `epochs` it does not end, and a last batch that is not full
    is not given.

    encode: a caption's token ids. A caption of more than `length` tokens is cut, and counted in
    `cut`; an empty one is as unreadable as an image that cannot be decoded.
    augments: images are cut at random, drawn by seed, epoch and place (pictures.square).
    most_unreadable: share of the pairs read so far, of which at least 20 may be.
    workers: processes that decode; 0 for threads of this one, which decode outside of Python's
    lock. part: (number, count) of the process whose rows these are, where several read one source.

    Raises UserError: too many pairs are unreadable; the first are named.
    """

    def __init__(
        self,
        source: PairSource,
        encode: Callable[[str], list[int]],
        *,
        side: int,
        length: int,
        batch_size: int,
        seed: int = 0,
        epochs: int | None = None,
        augments: bool = True,
        most_unreadable: float = 0.01,
        threads: int = 16,
        workers: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        number, count = part
        if batch_size < 1 or len(source) // count < 1:
            raise UserError(
                f"{source.spec!r} has {len(source)} pairs for {count} processes and batches of "
                f"{batch_size}: expected at least one of each"
            )
        self.source, self._length, self._batch_size = source, length, batch_size
        self._most = most_unreadable
        self.read = self.cut = 0
        self.unreadable: list[str] = []  # as many as are named; `skipped` counts them all
        self.skipped = 0
        self._fingerprint = {"pairs": len(source), "seed": seed, "part": list(part)}
        examples = grain.MapDataset.range(len(source)).shuffle(seed=seed)
        examples = examples[number::count].repeat(epochs)
        one = _Decode(source, encode, side=side, length=length, augments=augments)
        examples = examples.seed(seed).random_map(one)
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        rows = examples.to_iter_dataset(reading)
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain hands Abseil's on to its processes
                flags.FLAGS.mark_as_parsed()
            rows = rows.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        self._rows = iter(rows)

    def __iter__(self) -> "PairLoader":
        return self

    def __next__(self) -> PairRows:
        there: list[tuple[np.ndarray, np.ndarray]] = []
        while len(there) < self._batch_size:
            example = next(self._rows)
            self.read += 1
            if isinstance(example, Unreadable):
                self._leave_out(example)
                continue
            image, ids, cut = example
            self.cut += cut
            there.append((image, ids))
        images, ids = zip(*there, strict=True)
        rows_BL = np.zeros((len(there), self._length), np.int32)
        mask_BL = np.zeros((len(there), self._length), bool)
        for row, one in enumerate(ids):
            rows_BL[row, : len(one)], mask_BL[row, : len(one)] = one, True
        return PairRows(np.stack(images), rows_BL, mask_BL)

    def _leave_out(self, example: Unreadable) -> None:
        self.skipped += 1
        if len(self.unreadable) < SHOWN:
            self.unreadable.append(example.reason)
        if self.skipped > max(ALLOWED, self._most * self.read):
            raise UserError(
                f"{self.source.spec!r}: {self.skipped:,} of {self.read:,} pairs cannot be read, "
                f"more than a share of {self._most:g}: {'; '.join(self.unreadable)}; repair or "
                "drop them, or allow more"
            )

    def state(self) -> dict[str, Any]:
        """What `restore` needs: JSON values."""
        return {
            "rows": self._rows.get_state(),
            "read": self.read,
            "skipped": self.skipped,
            "cut": self.cut,
            "unreadable": list(self.unreadable),
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises UserError: the source has other pairs now."""
        if state.get("fingerprint") != self._fingerprint:
            raise UserError(
                f"the pairs are not the saved run's (saved -> now: {state.get('fingerprint')} -> "
                f"{self._fingerprint}); bring the old ones back, or begin anew"
            )
        self._rows.set_state(state["rows"])
        self.read, self.skipped, self.cut = state["read"], state["skipped"], state["cut"]
        self.unreadable = list(state["unreadable"])


class _Decode(grain.transforms.RandomMap):
    """A pair by number, ready for a batch; it is pickled for processes."""

    def __init__(
        self,
        source: PairSource,
        encode: Callable[[str], list[int]],
        *,
        side: int,
        length: int,
        augments: bool,
    ):
        self._source, self._encode = source, encode
        self._side, self._length, self._augments = side, length, augments

    def random_map(self, element: int, rng: np.random.Generator) -> Any:
        index = int(element)
        try:
            pair = self._source[index]
            ids = self._encode(pair.caption) if pair.caption.strip() else []
            if not ids:
                return Unreadable(f"{self._source.name(index)}: its caption is empty")
            image = square(pair.image, self._side, rng if self._augments else None)
        except UserError as error:
            return Unreadable(_named(self._source.name(index), str(error)))
        cut = len(ids) > self._length
        return image, np.array(ids[: self._length], np.int32), cut


def _named(name: str, problem: str) -> str:
    return problem if name in problem else f"{name}: {problem}"
