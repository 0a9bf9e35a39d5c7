# SPDX-License-Identifier: Apache-2.0
"""`webdataset:GLOB[?caption=txt]`: tar shards, in which files of one key belong together.

Opening reads the headers of each shard once; a pair is then read from its place, in any order.
"""

import bisect
import json
import os
import tarfile
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.data.pairs.pair import Pair
from training.data.pairs.pictures import SUFFIXES
from training.data.sources.spec import SourceSpec, decode_utf8, find_files

NOTHING = -1  # the offset of what a key does not have


class WebDataset:
    """See `PairSource`. caption: `txt`, or another ending, whose file is the
    caption; `json.FIELD`, a field of KEY.json, one inside of another as `json.outer.inner`.

    A key with an image and no caption is a pair that cannot be read; keys without an image are not
    counted.

    Raises UserError: a shard is none, is compressed, or no key of any has an image.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        ending, _, self._field = spec.options.get("caption", "txt").partition(".")
        self._files = find_files(spec)
        shards = [_read_headers(path, ending) for path in self._files]
        self._keys = [keys for keys, _ in shards]
        self._places = [places_N4 for _, places_N4 in shards]
        self._ending = ending
        self._ends = np.cumsum([len(keys) for keys in self._keys]).tolist()
        if not len(self):
            raise UserError(
                f"{spec.text!r}: no file in its {len(self._files)} shards is an image by its name "
                f"({', '.join(sorted(SUFFIXES))})"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        shard, row = self._place(index)
        return f"{self._files[shard]}, {self._keys[shard][row]}"

    def __getitem__(self, index: int) -> Pair:
        shard, row = self._place(index)
        image_at, image_size, text_at, text_size = self._places[shard][row].tolist()
        if text_at == NOTHING:
            raise UserError(f"{self.name(index)} has no .{self._ending} beside its image")
        with open(self._files[shard], "rb", buffering=0) as file:
            image = os.pread(file.fileno(), image_size, image_at)
            raw = os.pread(file.fileno(), text_size, text_at)
        if len(image) + len(raw) != image_size + text_size:
            raise UserError(f"{self._files[shard]} has become shorter since it was opened")
        text = decode_utf8(raw, self.name(index))
        return Pair(image, self._from_json(text, index) if self._field else text)

    def _from_json(self, text: str, index: int) -> str:
        try:
            value: Any = json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.name(index)}: its .json is not JSON: {error}") from None
        for part in self._field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, str):
            raise UserError(f"{self.name(index)}: its .json has no text in {self._field!r}")
        return value

    def _place(self, index: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)


def _read_headers(path: str, ending: str) -> tuple[list[str], np.ndarray]:
    """The keys that have an image, in the shard's order, and int64 [N, 4]: where image and caption
    begin, and their sizes."""
    places: dict[str, list[int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, name = os.path.split(member.name)
                stem, _, suffix = name.partition(".")
                place = places.setdefault(os.path.join(folder, stem), [NOTHING, 0, NOTHING, 0])
                if f".{suffix.lower()}" in SUFFIXES:
                    place[:2] = member.offset_data, member.size
                elif suffix == ending:
                    place[2:] = member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{path} is no tar archive that can be read in any order ({error}); unpack what is "
            "compressed (`gunzip`, `unzstd`)"
        ) from None
    pairs = {key: place for key, place in places.items() if place[0] != NOTHING}
    return list(pairs), np.array(list(pairs.values()), np.int64).reshape(-1, 4)
