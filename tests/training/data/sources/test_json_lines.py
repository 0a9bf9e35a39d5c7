# SPDX-License-Identifier: Apache-2.0
"""Lines of JSON are found wherever they are, and what is no document is named."""

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.data.sources import open_data_source, open_text_source
from training.data.sources.json_lines import _find_lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "a", "id": 3}', r":3 has no field 'text'; it has 'body', 'id'; .*\?field=NAME"),
        ("{}", ":3 has no field 'text'; it has none"),
        ("[1, 2]", ":3: expected a JSON object, found a list; of a file that is one array"),
        ("[", ":3 is not JSON: .*; of a file that is one array `jq -c"),
        ('{"text": 4}', ":3: text is a int, expected a string"),
        ('{"text": "a', ":3 is not JSON: "),
        ("{", ":3 is not JSON: "),
        ("[" * 100_000, ":3 holds JSON nested too deeply to be read"),
        ('{"a":' * 100_000, ":3 holds JSON nested too deeply to be read"),
        (r'{"text": "\ud800"}', r":3: text holds '\\ud800', half of a surrogate pair"),
    ],
)
def test_a_line_that_is_no_document_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f'{{"text": "fine"}}\n\n{line}\n')
    source = open_text_source(f"jsonl:{tmp_path}/a")
    assert source[0] == "fine"
    with pytest.raises(ValueError, match=f"a{message}"):
        source[1]


@given(st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"")), max_size=12))
def test_lines_are_found_wherever_chunks_end(lines: list[bytes]) -> None:
    assume(not b"".join(lines[:2]).startswith((b"BZ", b"\x1f\x8b")))
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.sources.json_lines._CHUNK", 3)
        content = b"\n".join(lines)
        file.write(content)
        file.flush()
        texts = [content[start:end] for start, end in _find_lines(file.name).T]
    assert texts == [line for line in lines if line.decode("utf-8", "replace").strip()]


def test_lines_of_white_space_are_no_documents(tmp_path: Path) -> None:
    content = '\ufeff  \n{"text": "one"}\n   \n\t \r\n\u3000\u00a0\n \n  {"text": "two"}\n    '
    (tmp_path / "a.jsonl").write_text(content, "utf-8")
    source = open_text_source(f"jsonl:{tmp_path}/a.jsonl")
    assert [source[n] for n in range(len(source))] == ["one", "two"]
    assert source.name(1).endswith(":7")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n')
    source = open_text_source(f"jsonl:{tmp_path}/a.jsonl")
    assert [source[n] for n in range(len(source))] == ["one", "two"]


def test_compressed_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is compressed.*`gunzip`"):
        open_data_source(f"jsonl:{tmp_path}/*.gz")


def test_a_file_that_shrank_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"text": "one"}\n{"text": "two"}\n')
    source = open_text_source(f"jsonl:{tmp_path}/a")
    (tmp_path / "a").write_text('{"text": "one"}\n')
    with pytest.raises(ValueError, match="has become shorter"):
        source[1]
