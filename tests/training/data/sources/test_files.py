# SPDX-License-Identifier: Apache-2.0
"""Sources at URLs are those of the same files on disk."""

import gzip
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from training.data.shard_writer import tokenise
from training.data.sources import fingerprint, open_text_source
from training.data.sources.files import find_urls, is_url, read_file, read_range, size_of
from training.data.token_shards import TokenShards


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents = [f"{n} green bottles " * n for n in range(30)]
    lines = [json.dumps({"text": text}) + "\n" for text in documents]
    (tmp_path / "a.jsonl").write_text("".join(lines[:11]))
    (tmp_path / "b.jsonl").write_text("\ufeff" + "\n \n".join(lines[11:]))
    table = pa.table({"text": documents})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    for number, text in enumerate(documents[1:5]):
        (tmp_path / f"{number}.txt").write_text(text)
    (tmp_path / "4.txt.gz").write_bytes(gzip.compress(documents[5].encode()))
    return tmp_path


@pytest.mark.parametrize("pattern", ["jsonl:{}/*.jsonl", "parquet:{}/*.parquet", "text:{}/*.txt*"])
def test_the_same_documents(texts: Path, pattern: str):
    disk = open_text_source(pattern.format(texts))
    url = open_text_source(pattern.format(f"file://{texts}"))
    url = pickle.loads(pickle.dumps(url))
    assert fingerprint(url) == fingerprint(disk)
    assert url.size == disk.size
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(url.__getitem__, range(len(disk)))) == list(
            map(disk.__getitem__, range(len(disk)))
        )
    assert url.name(len(url) - 1) == disk.name(len(disk) - 1).replace(str(texts), f"file://{texts}")


def test_tokenised_from_a_url_into_a_url(texts: Path):
    specs = [f"jsonl:{texts}/*.jsonl", f"jsonl:file://{texts}/*.jsonl"]
    outs = [texts / "disk", texts / "url"]
    tokenise([specs[0]], "bytes", outs[0], shards=2, workers=1)
    metadata = tokenise([specs[1]], "bytes", f"file://{outs[1]}", shards=2, workers=1)
    assert metadata["documents"] == 30
    assert tokenise([specs[1]], "bytes", f"file://{outs[1]}", shards=2, workers=1) == metadata
    for path in outs[0].glob("*.*"):
        if path.name not in ("tokens.json", ".lock"):  # which holds the sources as written
            assert path.read_bytes() == (outs[1] / path.name).read_bytes(), path.name
    assert TokenShards(outs[1]).fingerprint == TokenShards(outs[0]).fingerprint
    lost = outs[1] / "tokens-00001-of-00002.array_record"
    content = lost.read_bytes()
    lost.unlink()
    tokenise([specs[1]], "bytes", f"file://{outs[1]}", shards=2, workers=1)
    assert lost.read_bytes() == content


def test_parts_of_a_file(texts: Path):
    for path in (str(texts / "a.jsonl"), f"file://{texts}/a.jsonl"):
        content = (texts / "a.jsonl").read_bytes()
        assert is_url(path) == path.startswith("file:")
        assert size_of(path) == len(content)
        assert read_file(path) == content
        assert read_range(path, 5, 50) == content[5:50]
        assert read_range(path, len(content) - 3, len(content) + 9) == content[-3:]
    assert find_urls(f"file://{texts}/[ab].jsonl") == [
        f"file://{texts}/a.jsonl",
        f"file://{texts}/b.jsonl",
    ]
    assert find_urls(f"file://{texts}/a.jsonl") == [f"file://{texts}/a.jsonl"]


def test_what_is_not_there_or_not_read_at_a_url(texts: Path):
    with pytest.raises(UserError, match="no file matches; check the bucket, the folder and your"):
        open_text_source(f"jsonl:file://{texts}/*.ndjson")
    with pytest.raises(UserError, match=r"is a URL; files are read from disk: mount the bucket .*"):
        open_text_source(f"arrayrecord:file://{texts}/*.array_record")
    with pytest.raises(UserError, match=r"gs://b/\*.jsonl needs gcsfs .*: pip install gcsfs"):
        open_text_source("jsonl:gs://b/*.jsonl")
