# SPDX-License-Identifier: Apache-2.0
"""`text:GLOB[?part=head]`: each UTF-8 file is a document, or a part of it is.

`part=tail` is the last tenth of each file, cut after a line, and `part=head` all before it: one to
be scored on, the other to learn from. `--text FILE...` is both of them. A file whose name ends in
`.gz` is read through gzip.
"""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from recurrentgemma.errors import UserError
from training.data.sources.files import read_file, size_of
from training.data.sources.spec import SourceSpec, decode_utf8, find_files

PARTS = {"whole": 1.0, "head": 0.9, "tail": 0.1}  # of a file
MIN_BYTES = 1_000  # of a file that a tail is held out of
GZIP = 2.6  # about how much shorter English text is in it


class TextFiles:
    """See `training.data.sources.TextSource`. A byte order mark is dropped and CRLF becomes LF.

    files: the files, instead of those that the spec names.
    """

    blocks = None

    def __init__(self, spec: SourceSpec, files: Sequence[str] | None = None) -> None:
        self.spec = spec.text
        self._part = spec.options.get("part", "whole")
        if self._part not in PARTS:
            raise UserError(f"{spec.text!r}: part={self._part}: expected {', '.join(PARTS)}")
        self._files = find_files(spec) if files is None else list(files)
        size = sum(size_of(f) * (GZIP if f.endswith(".gz") else 1) for f in self._files)
        if size == 0:
            raise UserError(f"{spec.text!r}: no text in any of its files ({len(self):,})")
        self.size = round(size * PARTS[self._part])

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index]

    def __getitem__(self, index: int) -> str:
        raw = read_bytes(self._files[index])
        text = decode_utf8(raw, self.name(index)).removeprefix("\ufeff").replace("\r\n", "\n")
        if self._part == "whole":
            return text
        start = _tail(text)
        return text[:start] if self._part == "head" else text[start:]


def heads_and_tails(files: Sequence[str | Path]) -> tuple[TextFiles, TextFiles]:
    """What `--text FILE...` learns from and what it holds out.

    A file that is missing, a directory, empty, not UTF-8 or under MIN_BYTES is a ValueError that
    names it.
    """
    names = [str(file) for file in files]
    if len(set(names)) != len(names):
        raise UserError(f"--text names a file twice: {', '.join(names)}; name each file once")
    for file in map(Path, names):
        if not file.is_file():
            raise UserError(f"{file}: no such text file; give the path of a UTF-8 text file")
        raw = read_bytes(file)
        decode_utf8(raw, str(file))
        if len(raw) < MIN_BYTES:
            raise UserError(
                f"{file} is {'empty' if not raw else 'too short'}: {len(raw):,} bytes; "
                f"at least {MIN_BYTES:,} are needed, and useful training begins near 1,000,000"
            )
    head, tail = (
        TextFiles(SourceSpec("--text", "text", "", {"part": part}), names)
        for part in ("head", "tail")
    )
    return head, tail


def read_bytes(file: str | Path) -> bytes:
    """What is in a file, unpacked. Raises UserError: it ends in .gz, and is damaged."""
    raw = read_file(str(file))
    if not str(file).endswith(".gz") or not raw:
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{file} is not a whole gzip file ({error}): copy it again, or take .gz off its name "
            "if it is plain text"
        ) from None


def _tail(text: str) -> int:
    """Where the last tenth of a text begins: after a line, if there is one."""
    nine_tenths = len(text) - len(text) // 10
    return text.rfind("\n", len(text) // 2, nine_tenths) + 1 or nine_tenths
