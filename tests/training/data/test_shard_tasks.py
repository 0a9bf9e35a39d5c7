# SPDX-License-Identifier: Apache-2.0
"""One shard: what belongs to it, and what stops it. The processes: test_shard_writer.py."""

from pathlib import Path

import numpy as np
import pytest

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from training.data import shard_tasks
from training.data.shard_folder import DiskFolder, read_json
from training.data.shard_tasks import Shards, comparable, index_of, write_shard
from training.data.sources import open_text_source


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("ten green bottles"[: 3 * number + 1])
    source = open_text_source(f"text:{tmp_path}/*.txt")
    (tmp_path / "tokenizer").mkdir()
    ByteTokenizer().save(tmp_path / "tokenizer")
    files = {p.name: p.read_bytes() for p in (tmp_path / "tokenizer").iterdir()}
    (tmp_path / "out").mkdir()
    manifest = {"dtype": "uint16", "shard_count": 2, "sources": []}
    return Shards(DiskFolder(tmp_path / "out"), [source], manifest, files)


def test_a_shard_and_what_belongs_to_it(shards: Shards) -> None:
    reports: list[np.ndarray] = []
    assert shards.bounds == [0, 2, 5]
    write_shard(shards, shards.load_tokenizer(), 1, report=reports.append)
    name = shards.name(1)
    assert shards.folder.names() == {name, f"{name}.npy", f"{name}.json"}
    with shards.folder.local(f"{name}.npy") as path:
        assert np.load(path).tolist() == [[9, 12, 15], [7, 10, 13]]
    entry = read_json(shards.folder, f"{name}.json")
    assert (entry["documents"], entry["tokens"], entry["bytes"]) == (3, 36, 30)
    assert np.sum(reports, 0).tolist() == [3, 36, 30]
    assert shards.folder.is_same(name, entry["file_bytes"], entry["sha256"])


def test_a_shard_that_is_given_up_is_not_there(shards: Shards) -> None:
    asked = iter([False, True])
    with pytest.raises(InterruptedError, match="was not finished"):
        write_shard(shards, ByteTokenizer(), 1, report=print, given_up=lambda: next(asked))
    assert shards.folder.names() == set()


def test_a_full_disk_is_said_so(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, path: str, options: str) -> None: ...

        def write(self, record: bytes) -> None:
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(shard_tasks, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match=r"/out cannot be written: .*No space left.* it goes on"):
        write_shard(shards, ByteTokenizer(), 0, report=print)
    assert shards.folder.names() == set()


def test_plans_are_the_same_wherever_their_sources_are() -> None:
    plans = [
        {"dtype": "uint16", "sources": [{"spec": spec, "documents": 3, "fingerprint": "f"}]}
        for spec in ("text:a/*", "text:b/*")
    ]
    assert comparable(plans[0]) == comparable(plans[1])
    assert comparable(plans[0]) != comparable({**plans[1], "dtype": "uint32"})


def test_the_index_has_64_bits_where_it_must() -> None:
    assert index_of(np.array([[5, 2**32 - 1]])).dtype == np.uint32
    index = index_of(np.array([[5, 2**32]]))
    assert (index.dtype, index.tolist()) == (np.int64, [[5, 2**32]])
    assert index_of(np.zeros((2, 0), np.int64)).shape == (2, 0)
