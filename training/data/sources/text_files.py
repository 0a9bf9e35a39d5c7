# SPDX-License-Identifier: Apache-2.0
"""`text:GLOB`: each UTF-8 file is a document."""

import os
from pathlib import Path

from recurrentgemma.errors import UserError
from training.data.sources.spec import Spec, decode_utf8, find_files


class TextFiles:
    """See `training.data.sources.Source`. A byte order mark is dropped and CRLF becomes LF."""

    blocks = None

    def __init__(self, spec: Spec) -> None:
        self.spec = spec.text
        self._files = find_files(spec)
        self.size = sum(map(os.path.getsize, self._files))
        if self.size == 0:
            raise UserError(f"{spec.text!r}: every one of its {len(self)} files is empty")

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index]

    def __getitem__(self, index: int) -> str:
        raw = Path(self._files[index]).read_bytes()
        return decode_utf8(raw, self.name(index)).removeprefix("\ufeff").replace("\r\n", "\n")
