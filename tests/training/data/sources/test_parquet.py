# SPDX-License-Identifier: Apache-2.0
"""Rows of Parquet files: columns that do not fit, and groups that are decoded once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.data.sources.small_sources import (
    TEXTS,
    write_parquet,
)
from training.data.sources import open_data_source, open_text_source
from training.data.sources import parquet as parquet_module


def test_a_parquet_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a", None], "id": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has no column 'text'; it has 'body', 'id'"):
        open_data_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(ValueError, match=r"'id' is int64, expected string: .* of text are 'body'"):
        open_data_source(f"parquet:{tmp_path}/a.parquet?column=id")
    with pytest.raises(ValueError, match="row 1 of row group 0: column 'body' is null"):
        open_text_source(f"parquet:{tmp_path}/a.parquet?column=body")[1]
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b\.parquet is not a whole Parquet file"):
        open_data_source(f"parquet:{tmp_path}/b.parquet?column=body")


def test_words_of_a_dictionary_column_are_texts(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_text_source(f"parquet:{tmp_path}/a.parquet")
    assert [source[i] for i in range(3)] == ["a", "b", "a"]


def test_row_groups_are_decoded_once_and_forgotten_when_they_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_text_source(write_parquet(tmp_path))
    assert isinstance(source, parquet_module.ParquetColumn)
    rows, decoded = source._rows, []
    real = rows._decode
    monkeypatch.setattr(rows, "_decode", lambda group: (decoded.append(group), real(group))[1])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, range(len(TEXTS)))) == TEXTS
    assert sorted(decoded) == list(range(7))  # 3 groups of file a, 4 of file b
    monkeypatch.setattr(parquet_module, "KEPT_BYTES", 0)
    source[0]  # kept still
    for index in (4, 8, 0):
        assert source[index] == TEXTS[index]
    assert len(rows._kept) == 7  # nothing new came, so nothing was thrown out
    rows._forget()
    for index in (0, 4, 8, 0):
        assert source[index] == TEXTS[index]
    assert len(rows._kept) == 2
    assert decoded[7:] == [0, 1, 2, 0]
