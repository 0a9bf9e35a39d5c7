# SPDX-License-Identifier: Apache-2.0
"""`jsonl:GLOB[?field=text]`: each line is a JSON object, one field of which is a document."""

import bisect
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.data.sources.files import is_url, read_file, read_range, size_of
from training.data.sources.spec import SourceSpec, decode_utf8, find_files

OF_AN_ARRAY = (
    "; of a file that is one array `jq -c '.[]' FILE > FILE.jsonl` makes lines of an object each"
)
_MARK = "\ufeff"  # of the byte order, at the beginning of a file
_CHUNK = 1 << 24  # bytes searched for newlines at a time
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "unzstd", b"BZ": "bunzip2"}


class JsonLines:
    """See `training.data.sources.TextSource`. Opening reads the files once, to find where lines
    begin.

    A field inside another is written `outer.inner`. Lines of white space are skipped, and
    a byte order mark is.
    """

    blocks = None

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        self._field = spec.options.get("field", "text")
        self._files = find_files(spec)
        self.size = sum(map(size_of, self._files))
        # Per file, int64 [2, lines]: where each line that is not blank begins and ends.
        self._lines = [_find_lines(path) for path in self._files]
        self._ends = np.cumsum([lines.shape[1] for lines in self._lines]).tolist()
        if not len(self):
            raise UserError(
                f"{spec.text!r}: every line is empty ({', '.join(self._files[:3])}): write a JSON "
                "object a line, or name other files"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        """`file:line`, counted from 1 as editors do."""
        path, start, _ = self._place(index)
        line = read_range(path, 0, start).count(b"\n") + 1
        return f"{path}:{line}"

    def __getitem__(self, index: int) -> str:
        return self.text(self.record(index), self._field, index)

    @property
    def firsts(self) -> list[int]:
        """The first line of each file that has any."""
        begins = [0, *self._ends[:-1]]
        return [first for first, end in zip(begins, self._ends, strict=True) if first < end]

    def record(self, index: int) -> Any:
        """The value that a line holds. Raises ValueError: it is not JSON, or no UTF-8."""
        path, start, end = self._place(index)
        raw = read_range(path, start, end)
        if len(raw) != end - start:
            raise UserError(f"{path} has become shorter since it was opened; start again")
        line = _utf8(raw, self, index)
        try:
            return json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{self.name(index)} is not JSON: {error}; each line must hold one JSON object"
                f"{OF_AN_ARRAY if line.lstrip().startswith('[') else ''}"
            ) from None
        except RecursionError:
            raise UserError(
                f"{self.name(index)} holds JSON nested too deeply to be read: drop this line"
            ) from None

    def text(self, record: Any, field: str, index: int, option: str = "field") -> str:
        """The text in a field of a record. Raises ValueError: there is none; `option` chooses
        another field."""
        value = record
        for part in field.split("."):
            if not isinstance(value, dict):
                kind = type(value).__name__
                of_an_array = OF_AN_ARRAY if isinstance(value, list) else ""
                raise UserError(
                    f"{self.name(index)}: expected a JSON object, found a {kind}{of_an_array}"
                )
            if part not in value:
                raise UserError(
                    f"{self.name(index)} has no field {field!r}; it has "
                    f"{', '.join(map(repr, value)) or 'none'}; choose one with ?{option}=NAME"
                )
            value = value[part]
        if not isinstance(value, str):
            kind = type(value).__name__
            raise UserError(f"{self.name(index)}: {field} is a {kind}, expected a string")
        try:  # an escape can spell half of a character
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{self.name(index)}: {field} holds {value[error.start]!r}, half of a "
                f"surrogate pair, which is no character; repair or drop this record"
            ) from None
        return value

    def _place(self, index: int) -> tuple[str, int, int]:
        file = bisect.bisect_right(self._ends, index)
        line = index - (self._ends[file - 1] if file else 0)
        start, end = self._lines[file][:, line].tolist()
        return self._files[file], start, end


def _utf8(raw: bytes, source: JsonLines, index: int) -> str:
    try:
        return raw.decode("utf-8").removeprefix(_MARK)
    except UnicodeDecodeError:
        return decode_utf8(raw, source.name(index))  # raises; the line is only counted now


def _chunks(path: str) -> Iterator[bytes]:
    start = 0
    while chunk := read_range(path, start, start + _CHUNK):
        yield chunk
        start += len(chunk)


def _content(path: str) -> np.ndarray:
    """All bytes of a file; of one on disk only those that are looked at are read."""
    if is_url(path):
        return np.frombuffer(read_file(path), np.uint8)
    return np.memmap(path, np.uint8, "r")


def _find_lines(path: str) -> np.ndarray:
    ends, size = [], 0
    for chunk in _chunks(path):
        if not size:
            for magic, program in _COMPRESSED.items():
                if chunk.startswith(magic):
                    raise UserError(
                        f"{path} is compressed, so its lines cannot be read in any order; "
                        f"unpack it with `{program}`"
                    )
        ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + size)
        size += len(chunk)
    last = [] if ends and len(ends[-1]) and ends[-1][-1] == size - 1 else [size]
    end = np.concatenate([*ends, np.array(last, np.int64)]) if size else np.zeros(0, np.int64)
    start = np.concatenate([np.zeros(1, np.int64), end[:-1] + 1]) if size else end
    content = end > start
    if content.any():
        raw = _content(path)
        first = raw[start[content]]
        # White space of any kind, and the byte order mark, begins with one of these.
        for line in np.flatnonzero(content)[(first <= 0x20) | (first >= 0x80)].tolist():
            text = raw[start[line] : end[line]].tobytes().decode("utf-8", "replace")
            content[line] = bool(text.removeprefix(_MARK).strip())
    return np.stack([start[content], end[content]])
