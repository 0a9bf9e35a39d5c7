# SPDX-License-Identifier: Apache-2.0
"""A file of text is a document, or its last tenth is held out."""

import gzip
from pathlib import Path

import pytest

from training.data.sources import open_text_source
from training.data.sources.text_files import heads_and_tails


def test_windows_text_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffOne\r\nTwo\r\n".encode())
    assert open_text_source(f"text:{tmp_path}/a")[0] == "One\nTwo\n"


def test_the_last_tenth_of_each_file_is_held_out(tmp_path: Path) -> None:
    lines = [f"line {i:04d} über\r\n" for i in range(1000)]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes("\ufeff".encode() + "".join(lines).encode())
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    head, tail = heads_and_tails(files)
    by_spec = [open_text_source(f"text:{tmp_path}/*.txt?part={part}") for part in ("head", "tail")]
    for number, file in enumerate(files):
        assert head.name(number) == tail.name(number) == file
        assert head[number] + tail[number] == "".join(lines).replace("\r\n", "\n")
        assert head[number].count("\n") == 900
        assert tail[number].startswith("line 0900")
        assert [source[number] for source in by_spec] == [head[number], tail[number]]
    assert head.size == pytest.approx(9 * tail.size, rel=1e-3)
    with pytest.raises(ValueError, match="part=middle: expected whole, head, tail"):
        open_text_source(f"text:{tmp_path}/*.txt?part=middle")


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    lines = "line\n" * 1000
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines.encode()))
    assert open_text_source(f"text:{tmp_path}/*.gz")[0] == lines
    head, tail = heads_and_tails([tmp_path / "a.txt.gz"])
    assert (len(head[0]), len(tail[0])) == (4500, 500)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines.encode())[:-9])
    with pytest.raises(ValueError, match=r"a\.txt\.gz is not a whole gzip file .*copy it again"):
        open_text_source(f"text:{tmp_path}/*.gz")[0]


def test_text_without_lines_is_split_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 5000)
    head, tail = heads_and_tails([tmp_path / "a"])
    assert (len(head[0]), len(tail[0])) == (4500, 500)


def test_files_that_nothing_can_be_held_out_of_are_refused_by_name(tmp_path: Path) -> None:
    latin1 = tmp_path / "latin1.txt"
    latin1.write_bytes(b"x" * 1234 + "é".encode("latin1") + b"y" * 999)
    with pytest.raises(ValueError, match=r"latin1\.txt is not UTF-8: byte 0xe9 at offset 1,234"):
        heads_and_tails([latin1])
    latin1.write_bytes("\ufeff".encode() + b"x" * 97 + b"\xff" + b"y" * 999)
    with pytest.raises(ValueError, match="byte 0xff at offset 100;"):
        heads_and_tails([latin1])
    with pytest.raises(ValueError, match=r"absent\.txt: no such text file"):
        heads_and_tails([tmp_path / "absent.txt"])
    with pytest.raises(ValueError, match="no such text file"):
        heads_and_tails([tmp_path])
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.txt is empty: 0 bytes"):
        heads_and_tails([tmp_path / "empty.txt"])
    (tmp_path / "short.txt").write_bytes(b"x" * 999)
    with pytest.raises(ValueError, match=r"short\.txt is too short: 999 bytes; at least 1,000"):
        heads_and_tails([tmp_path / "short.txt"])
    (tmp_path / "good.txt").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=r"names a file twice: .*good\.txt"):
        heads_and_tails([tmp_path / "good.txt", tmp_path / "good.txt"])
