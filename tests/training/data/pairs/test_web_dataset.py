# SPDX-License-Identifier: Apache-2.0
"""Tar shards: files of one key are a pair, read in any order."""

import json
import pickle
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from tests.training.data.pairs.small_pairs import CAPTIONS, png, write_tar
from training.data.pairs import open_pairs
from training.data.pairs.pair import Pair


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_tar(
        tmp_path / "00.tar",
        {
            "a/one.png": png(0),
            "a/one.txt": CAPTIONS[0].encode(),
            "a/two.txt": CAPTIONS[1].encode(),  # in the other order
            "a/two.seg.png": b"of another kind",
            "a/two.PNG": png(1),
            "words.txt": b"of no image",
        },
    )
    record = {"text": {"en": CAPTIONS[2]}}
    write_tar(
        tmp_path / "01.tar", {"three.webp": png(2), "three.json": json.dumps(record).encode()}
    )
    return tmp_path


def test_pairs_by_number(shards: Path):
    pairs = open_pairs(f"webdataset:{shards}/*.tar")
    assert len(pairs) == 3
    assert pairs[1] == Pair(png(1), CAPTIONS[1])
    assert pickle.loads(pickle.dumps(pairs))[0] == Pair(png(0), CAPTIONS[0])
    with pytest.raises(UserError, match=r"01.tar, three has no .txt beside its image"):
        pairs[2]
    told = open_pairs(f"webdataset:{shards}/01.tar?caption=json.text.en")
    assert told[0].caption == CAPTIONS[2]
    with pytest.raises(UserError, match=r"three: its .json has no text in 'text.de'"):
        open_pairs(f"webdataset:{shards}/01.tar?caption=json.text.de")[0]


def test_what_is_no_shard(tmp_path: Path):
    write_tar(tmp_path / "packed.tar.gz", {"a.png": png(0)}, mode="w:gz")
    write_tar(tmp_path / "texts.tar", {"a.txt": b"a"})
    for name, problem in (
        ("packed.tar.gz", "no tar archive that can be read in any order"),
        ("texts.tar", "no file in its 1 shards is an image by its name"),
        ("none.tar", "no file matches"),
    ):
        with pytest.raises(UserError, match=problem):
            open_pairs(f"webdataset:{tmp_path}/{name}")
    pairs = open_pairs(
        f"webdataset:{write_tar(tmp_path / 'a.tar', {'a.png': png(0), 'a.txt': b'x'})}"
    )
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(UserError, match="has become shorter"):
        pairs[0]
