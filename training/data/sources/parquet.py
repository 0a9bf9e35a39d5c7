# SPDX-License-Identifier: Apache-2.0
"""`parquet:GLOB[?column=text]`: each row is a document.

A row is read by decoding its whole row group, one column of it, so the groups last used are kept,
and `blocks` tells the shuffle where groups begin: it mixes the rows of a few groups at a time.
"""

import bisect
import functools
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recurrentgemma.errors import UserError
from training.data.sources.files import read_from, size_of
from training.data.sources.spec import SourceSpec, find_files

KEPT_BYTES = 512 * 2**20  # of decoded groups; at least two are kept, however large


class ParquetColumn:
    """See `training.data.sources.TextSource`. Opening reads the footers only."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        self._column = spec.options.get("column", "text")
        self._rows = ParquetRows(spec, self._column)
        self.size, self.blocks = self._rows.size, self._rows.blocks

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return self._rows.name(index)

    def __getitem__(self, index: int) -> str:
        text = self._rows.record(index)
        if text is None:
            raise UserError(f"{self.name(index)}: column {self._column!r} is null; drop such rows")
        return text


class ParquetRows:
    """The values of one column, or whole rows, by number. Opening reads the footers only.

    Raises ValueError: a file is none of Parquet's, has no such column, or no rows.
    """

    def __init__(self, spec: SourceSpec, column: str | None = None) -> None:
        self._column = column
        self._files = find_files(spec)
        self._forget()
        self.size = sum(map(size_of, self._files))
        rows, self._groups = [], []  # of each row group: its rows; (file, group)
        for path in self._files:
            metadata = self._metadata(path)
            if column is not None:
                self._check(path, metadata, column)
            for group in range(metadata.num_row_groups):
                rows.append(metadata.row_group(group).num_rows)
                self._groups.append((path, group))
        self._ends = np.cumsum(rows).tolist() if rows else [0]
        if not len(self):
            raise UserError(f"{spec.text!r}: its {len(self._files)} files have no rows")
        self.blocks = np.array([0, *self._ends[:-1]])

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        group, row = self._place(index)
        path, number = self._groups[group]
        return f"{path}, row {row} of row group {number}"

    def record(self, index: int) -> Any:
        """The value of the column, or the row as a dictionary."""
        group, row = self._place(index)
        return self._group(group)[row].as_py()

    @property
    def firsts(self) -> list[int]:
        """The first row of each file that has any."""
        begins = {}
        for (path, _), first, end in zip(self._groups, [0, *self._ends], self._ends, strict=False):
            if first < end:
                begins.setdefault(path, first)
        return list(begins.values())

    def __getstate__(self) -> dict:
        hidden = ("_lock", "_kept", "_kept_bytes", "_metadata")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Future[pa.ChunkedArray]] = OrderedDict()
        self._kept_bytes = 0
        self._metadata = functools.lru_cache(maxsize=64)(_read_metadata)

    def _place(self, index: int) -> tuple[int, int]:
        group = bisect.bisect_right(self._ends, index)
        return group, index - (self._ends[group - 1] if group else 0)

    def _group(self, group: int) -> pa.ChunkedArray:
        """The column of a row group; of threads that want the same one, one decodes it."""
        with self._lock:
            future = self._kept.pop(group, None)
            first = future is None
            if future is None:
                future = Future()
            self._kept[group] = future  # the newest is last
        if first:
            try:
                column = self._decode(group)
            except BaseException as error:
                with self._lock:
                    self._kept.pop(group, None)
                future.set_exception(error)
                raise
            future.set_result(column)
            self._make_room(column.nbytes)
        return future.result()

    def _decode(self, group: int) -> pa.ChunkedArray:
        path, number = self._groups[group]
        try:
            metadata = self._metadata(path)
            table = read_from(path, lambda file: self._read_group(file, metadata, number))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: row group {number} cannot be read: {error}") from None
        if self._column is None:
            return pa.chunked_array(table.to_struct_array())
        column = table.column(0)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return column

    def _read_group(self, file: Any, metadata: pq.FileMetaData, number: int) -> pa.Table:
        columns = None if self._column is None else [self._column]
        with pq.ParquetFile(file, metadata=metadata) as opened:
            return opened.read_row_group(number, columns=columns, use_threads=False)

    def _make_room(self, added: int) -> None:
        with self._lock:
            self._kept_bytes += added
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > 2:
                oldest = next(iter(self._kept))
                if not self._kept[oldest].done():
                    break
                self._kept_bytes -= self._kept.pop(oldest).result().nbytes

    def _check(self, path: str, metadata: pq.FileMetaData, column: str) -> None:
        schema = metadata.schema.to_arrow_schema()
        if column not in schema.names:
            raise UserError(
                f"{path} has no column {column!r}; it has "
                f"{', '.join(map(repr, schema.names))}; choose one with ?column=NAME"
            )
        kind = schema.field(column).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(plain) or pa.types.is_large_string(plain)):
            texts = [f.name for f in schema if pa.types.is_string(f.type)]
            others = f"; of text are {', '.join(map(repr, texts))}" if texts else ""
            raise UserError(
                f"{path}: column {column!r} is {kind}, expected string: choose another with "
                f"?column=NAME{others}"
            )


def _read_metadata(path: str) -> pq.FileMetaData:
    try:
        return read_from(path, pq.read_metadata)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}") from None
