# SPDX-License-Identifier: Apache-2.0
"""Records of UTF-8: files that are none, and records that are damaged."""

from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.training.data.sources.small_sources import (
    write_array_record,
)
from training.data.sources import open_data_source, open_text_source


@pytest.mark.parametrize("content", [b"", b"hello\n" * 99])
def test_an_array_record_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.array_record").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole ArrayRecord file"):
        open_data_source(f"arrayrecord:{tmp_path}/a.array_record")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    spec = write_array_record(tmp_path)
    path = tmp_path / "a.array_record"
    content = bytearray(path.read_bytes())
    start = content.index(b"\x28\xb5\x2f\xfd", 200) if b"\x28\xb5\x2f\xfd" in content else 300
    content[start : start + 8] = b"damaged!"
    path.write_bytes(content)
    source = open_text_source(spec)
    with pytest.raises(ValueError, match=r"record \d+ cannot be read"):
        [source[i] for i in range(10)]


def test_a_record_that_is_no_text(tmp_path: Path) -> None:
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    writer.write(b"\xff\xfe")
    writer.close()
    with pytest.raises(ValueError, match=r"record 0 \(if TFDS wrote it.*is not UTF-8: byte 0xff"):
        open_text_source(f"arrayrecord:{tmp_path}/a.array_record")[0]
