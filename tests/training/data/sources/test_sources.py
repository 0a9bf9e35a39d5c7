# SPDX-License-Identifier: Apache-2.0
"""Every kind of source gives its documents by number, in any order."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.training.data.sources import small_sources
from tests.training.data.sources.small_sources import (
    TEXTS,
    write_array_record,
    write_jsonl,
    write_parquet,
    write_text,
)
from training.data.sources import fingerprint, open_data_source, open_text_source

WRITERS = [write_text, write_jsonl, write_parquet, write_array_record]


@pytest.mark.parametrize("write", WRITERS)
def test_each_kind_gives_its_documents_in_any_order(
    write: Callable[[Path], str], tmp_path: Path
) -> None:
    source = open_text_source(write(tmp_path))
    assert len(source) == len(TEXTS)
    assert [source[i] for i in reversed(range(len(TEXTS)))] == TEXTS[::-1]
    assert source.size > 0
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.__getitem__, range(len(TEXTS)))) == TEXTS
    assert fingerprint(copy) == fingerprint(open_text_source(source.spec))


@pytest.mark.parametrize("write", WRITERS)
def test_a_changed_document_changes_the_fingerprint(
    write: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(open_text_source(write(tmp_path)))
    monkeypatch.setattr(small_sources, "TEXTS", [*TEXTS[:-1], TEXTS[-1].replace("naïve", "nåïve")])
    assert fingerprint(open_text_source(write(tmp_path))) != before


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_text_that_is_not_utf8(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"text": "caf\xe9"}\n')
    source = open_text_source(f"{kind}:{tmp_path}/a")
    with pytest.raises(ValueError, match=r"a(:1)? is not UTF-8: byte 0xe9 at offset 13; .*iconv"):
        source[0]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("text", "", "no text in any of its files"),
        ("jsonl", "\n \n", "every line is empty"),
    ],
)
def test_an_empty_source(kind: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_data_source(f"{kind}:{tmp_path}/a")


def test_empty_files_of_records(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1").close()
    with pytest.raises(ValueError, match="1 files have no rows"):
        open_data_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(ValueError, match="1 files have no records"):
        open_data_source(f"arrayrecord:{tmp_path}/a.array_record")
