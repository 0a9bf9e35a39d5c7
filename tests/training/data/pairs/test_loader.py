# SPDX-License-Identifier: Apache-2.0
"""Every pair once an epoch, gone on with where it was; what cannot be read is counted."""

from typing import Any

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.data.pairs.small_pairs import CAPTIONS, png
from training.data.pairs.loader import PairLoader
from training.data.pairs.pair import Pair


class Numbered:
    """Captions are numbers; those in `bad` are no images, those in `empty` have none."""

    spec = "numbered"

    def __init__(self, count: int, bad: tuple[int, ...] = (), empty: tuple[int, ...] = ()):
        self._count, self._bad, self._empty = count, bad, empty

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"pair {index}"

    def __getitem__(self, index: int) -> Pair:
        caption = "  " if index in self._empty else f"{index} " + CAPTIONS[index % 4]
        return Pair(b"none" if index in self._bad else png(index, (10, 14)), caption)


def encode(caption: str) -> list[int]:
    number, *words = caption.split()
    return [int(number), *(len(word) for word in words)]


def loader(source: Numbered | None = None, **changes) -> PairLoader:
    given: dict[str, Any] = {"side": 6, "length": 5, "batch_size": 4, "epochs": 1, "threads": 2}
    return PairLoader(source or Numbered(12), encode, **given | changes)


def numbers(pairs: PairLoader) -> list[int]:
    return [int(n) for batch in pairs for n in batch.ids_BL[:, 0]]


def test_each_epoch_has_every_pair_once():
    given = numbers(loader(epochs=2))
    assert sorted(given[:12]) == sorted(given[12:]) == list(range(12))
    assert given[:12] != given[12:]
    assert numbers(loader(seed=1)) != given[:12]
    parts = [numbers(loader(part=(n, 2), batch_size=3)) for n in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(12))


def test_rows():
    batch = next(loader(length=3))
    assert batch.images_BSS3.shape == (4, 6, 6, 3)
    assert batch.images_BSS3.dtype == np.uint8
    assert batch.mask_BL.all()  # four tokens, of which three stay
    pairs = loader(length=6)
    batch = next(pairs)
    np.testing.assert_array_equal(batch.mask_BL[0], [True] * 4 + [False] * 2)
    assert pairs.cut == 0
    pairs = loader(length=3)
    next(pairs)
    assert pairs.cut == 4


def test_what_cannot_be_read_is_left_out_and_counted():
    pairs = loader(Numbered(12, bad=(2, 7), empty=(3,)), batch_size=3)
    assert sorted(numbers(pairs)) == [0, 1, 4, 5, 6, 8, 9, 10, 11]
    assert (pairs.read, pairs.skipped) == (12, 3)
    assert "pair 3: its caption is empty" in pairs.unreadable
    assert any(reason.startswith("pair 7: no image that can be") for reason in pairs.unreadable)
    many = loader(Numbered(60, bad=tuple(range(0, 60, 2))), batch_size=2)
    with pytest.raises(UserError, match=r"21 of \d+ pairs cannot be read, more than a share of"):
        numbers(many)
    allowed = loader(Numbered(60, bad=tuple(range(0, 60, 2))), batch_size=2, most_unreadable=0.9)
    assert len(numbers(allowed)) == 30


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_it_goes_on_where_it_was(workers: int):
    source = Numbered(20, bad=(5,))
    whole = list(loader(source, epochs=2, workers=workers))
    part = loader(source, epochs=2, workers=workers)
    for _ in range(3):
        next(part)
    state = part.state()
    again = loader(source, epochs=2, workers=workers)
    again.restore(state)
    remaining = list(again)
    assert len(remaining) == len(whole) - 3
    for a, b in zip(remaining, whole[3:], strict=True):
        np.testing.assert_array_equal(a.ids_BL, b.ids_BL)
        np.testing.assert_array_equal(a.images_BSS3, b.images_BSS3)
    assert again.read == 40
    assert again.skipped == 2
    with pytest.raises(UserError, match="the pairs are not the saved run's"):
        loader(Numbered(21), epochs=2).restore(state)


def test_too_few():
    with pytest.raises(UserError, match="'numbered' has 1 pairs for 2 processes"):
        loader(Numbered(1), part=(1, 2))
