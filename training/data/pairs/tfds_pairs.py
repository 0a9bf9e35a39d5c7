# SPDX-License-Identifier: Apache-2.0
"""`tfds:NAME[...][?image=image&caption=caption&data_dir=DIRECTORY]`: examples of a TensorFlow
Dataset, such as `coco_captions`, that was prepared with random access."""

from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.data.pairs.pair import KINDS, Pair
from training.data.sources.spec import SourceSpec, decode_utf8
from training.data.sources.tfds import WHERE, dataset_builder, open_split


class TfdsPairs:
    """See `PairSource`. The caption is a feature of text; of one that is
    several, or features that are, such as `captions/text`, the first is taken.

    Raises UserError: it is not prepared, or has no such features.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self._written = spec
        self.spec = spec.text
        self._image = spec.options.get("image", "image")
        self._caption = spec.options.get("caption", "caption").split("/")
        match = WHERE.fullmatch(spec.where)
        if match is None:
            raise UserError(f"{spec.text!r}: expected {KINDS['tfds']}")
        name = match["name"] + (f":{match['version']}" if match["version"] else "")
        builder = dataset_builder(spec, name)
        split = match["split"] or "train"
        self._examples, _ = open_split(spec, builder, match["name"], split)
        self._full_name = f"{builder.info.full_name}:{split}"
        features = builder.info.features
        for option, feature in (("image", self._image), ("caption", self._caption[0])):
            if feature not in features:
                raise UserError(
                    f"{spec.text!r}: its examples have no feature {feature!r}; they have "
                    f"{', '.join(map(repr, features))}: choose one with ?{option}=NAME"
                )

    def __reduce__(self) -> tuple:
        return TfdsPairs, (self._written,)

    def __len__(self) -> int:
        return len(self._examples)

    def name(self, index: int) -> str:
        return f"{self._full_name}, example {index}"

    def __getitem__(self, index: int) -> Pair:
        try:
            example = self._examples[index]
        except RuntimeError as error:
            raise UserError(f"{self.name(index)} cannot be read: {error}") from None
        value: Any = example
        for part in self._caption:
            value = value[part] if isinstance(value, dict) and part in value else None
        if isinstance(value, list | np.ndarray) and len(value):
            value = value[0]
        if not isinstance(value, bytes):
            raise UserError(f"{self.name(index)}: {'/'.join(self._caption)} is no text")
        caption = decode_utf8(value, self.name(index))
        return Pair(np.asarray(example[self._image], np.uint8), caption)
