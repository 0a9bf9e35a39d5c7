# SPDX-License-Identifier: Apache-2.0
"""Texts that are in memory already, as a source."""

from collections.abc import Mapping


class Texts:
    """See `training.data.sources.TextSource`. texts: by name, in their order."""

    blocks = None

    def __init__(self, spec: str, texts: Mapping[str, str]) -> None:
        self.spec = spec
        self._names, self._texts = list(texts), list(texts.values())
        self.size = sum(len(text.encode()) for text in self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def name(self, index: int) -> str:
        return self._names[index]

    def __getitem__(self, index: int) -> str:
        return self._texts[index]
