# SPDX-License-Identifier: Apache-2.0
"""What a pair is, what a source of them is, and how one is written."""

from typing import NamedTuple, Protocol

import numpy as np

KINDS = {
    "webdataset": "webdataset:GLOB[?caption=txt or caption=json.FIELD]",
    "parquet": "parquet:GLOB[?image=image&caption=text]",
    "folder": "folder:DIRECTORY[?caption=text]",
    "tfds": "tfds:NAME[/CONFIG][:VERSION][:SPLIT][?image=image&caption=caption&data_dir=DIRECTORY]",
}
OPTIONS = {
    "webdataset": ("caption",),
    "parquet": ("image", "caption"),
    "folder": ("caption",),
    "tfds": ("image", "caption", "data_dir"),
}


class Pair(NamedTuple):
    """image: the bytes of a file, or uint8 [H, W, 3]."""

    image: bytes | np.ndarray
    caption: str


class PairSource(Protocol):
    """Pairs by number. Safe to read from several threads, and to pickle."""

    @property
    def spec(self) -> str:
        """As it was written."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair:
        """Not decoded. UserError that says where, if it cannot be had."""
        ...

    def name(self, index: int) -> str:
        """Where a pair stands, for people."""
        ...
