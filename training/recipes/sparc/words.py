# SPDX-License-Identifier: Apache-2.0
"""A token a word: the vocabulary of scenes, so that a token of the local loss is a word."""

from collections.abc import Iterable

import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.sparc.scenes import COLOURS, RELATIONS

OF_CAPTIONS = ("a", "an", "and", *(word for one in RELATIONS for word in one.split()))
PADDING = 0


class WordVocabulary:
    """Ids from 1 on, sorted; 0 is padding. `content`: words that stand for something to be seen."""

    def __init__(self, names: Iterable[str], colours: Iterable[str] = COLOURS):
        self.names = tuple(names)
        told = {word for name in self.names for word in name.split()} | set(colours)
        self.words = ("", *sorted(told | set(OF_CAPTIONS)))
        self._ids = {word: number for number, word in enumerate(self.words) if word}
        content = told - set(OF_CAPTIONS)  # a thing's name may have "and"
        self._content = np.array([word in content for word in self.words])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str) -> list[int]:
        """Raises UserError: a word is not among them."""
        ids = []
        for word in caption.lower().split():
            if word not in self._ids:
                raise UserError(f"{word!r} is no word of this vocabulary of {len(self):,} words")
            ids.append(self._ids[word])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.words[id] for id in ids if id != PADDING)

    def is_content(self, ids_BL: np.ndarray) -> np.ndarray:
        """bool, where a token is a thing or a colour."""
        return self._content[ids_BL]
