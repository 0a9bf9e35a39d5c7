# SPDX-License-Identifier: Apache-2.0
"""`parquet:GLOB[?image=image&caption=text]`: each row is a pair."""

from typing import Any

from recurrentgemma.errors import UserError
from training.data.pairs.pair import Pair
from training.data.sources.parquet import ParquetRows
from training.data.sources.spec import SourceSpec


class ParquetPairs:
    """See `PairSource`. The image is the bytes of a file, or a struct that has them as `bytes`, as
    Hugging Face writes them.

    Raises UserError: a file is none of Parquet's, has no rows, or no such columns.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        self._image = spec.options.get("image", "image")
        self._caption = spec.options.get("caption", "text")
        self._rows = ParquetRows(spec)
        there = self._rows.record(0)
        for option, column in (("image", self._image), ("caption", self._caption)):
            if column not in there:
                raise UserError(
                    f"{spec.text!r} has no column {column!r}; it has "
                    f"{', '.join(map(repr, there))}: choose one with ?{option}=NAME"
                )

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return self._rows.name(index)

    def __getitem__(self, index: int) -> Pair:
        row = self._rows.record(index)
        image: Any = row[self._image]
        if isinstance(image, dict):
            image = image.get("bytes")
        if not isinstance(image, bytes):
            kind = "nothing" if image is None else f"a {type(image).__name__}"
            raise UserError(
                f"{self.name(index)}: {self._image} holds {kind}, expected the bytes of a file"
            )
        caption = row[self._caption]
        if not isinstance(caption, str):
            raise UserError(f"{self.name(index)}: {self._caption} is no text")
        return Pair(image, caption)
