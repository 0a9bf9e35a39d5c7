# SPDX-License-Identifier: Apache-2.0
"""`arrayrecord:GLOB`: each record of ArrayRecord files is a document in UTF-8."""

import os

from array_record.python.array_record_data_source import ArrayRecordDataSource

from recurrentgemma.errors import UserError
from training.data.sources.spec import SourceSpec, decode_utf8, find_files


class ArrayRecords:
    """See `training.data.sources.TextSource`. Opening reads the footers only."""

    blocks = None

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        self._files = find_files(spec)
        self.size = sum(map(os.path.getsize, self._files))
        try:
            self._records = ArrayRecordDataSource(self._files)
        except RuntimeError as error:
            why = f": {error}" if str(error) else "; it was cut short, or is of another kind"
            raise UserError(f"{spec.text!r}: not a whole ArrayRecord file{why}") from None
        if not len(self):
            raise UserError(f"{spec.text!r}: its {len(self._files)} files have no records")

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return f"{self.spec}, record {index}"

    def __getitem__(self, index: int) -> str:
        try:
            raw = self._records[index]
        except RuntimeError as error:
            raise UserError(f"{self.name(index)} cannot be read: {error}") from None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return decode_utf8(
                raw, f"{self.name(index)} (if TFDS wrote it, read it with tfds:NAME)"
            )
