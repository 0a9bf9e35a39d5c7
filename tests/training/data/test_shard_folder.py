# SPDX-License-Identifier: Apache-2.0
"""A folder on a disk and one at a URL are used alike."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.data.shard_folder import (
    DiskFolder,
    UrlFolder,
    open_folder,
    read_json,
    require_free,
    sha256_of,
    write_json,
)


@pytest.fixture(params=["disk", "file", "memory"])
def folder(request, tmp_path: Path):
    place = {"disk": f"{tmp_path}/a/b", "file": f"file://{tmp_path}/a/b"}
    return open_folder(place.get(request.param, f"memory://{tmp_path}/a/b"))


def test_a_file_is_there_whole_or_not_at_all(folder, tmp_path):
    assert not folder.exists()
    assert folder.names() == set()
    folder.create()
    folder = pickle.loads(pickle.dumps(folder))
    with folder.locked():
        write_json(folder, "plan.json", {"a": [1, 2]})
        with folder.new("x.npy") as path:
            with path.open("wb") as file:
                np.save(file, np.arange(9))
            digest, size = sha256_of(path), path.stat().st_size
            assert folder.size("x.npy") is None
        with pytest.raises(FileNotFoundError), folder.new("y.npy") as path:
            shutil.copy(tmp_path / "what is not there", path)
    assert folder.names() - {".lock"} == {"plan.json", "x.npy"}
    assert read_json(folder, "plan.json") == {"a": [1, 2]}
    assert folder.size("x.npy") == size
    assert folder.is_same("x.npy", size, digest)
    assert not folder.is_same("x.npy", size + 1, digest)
    with folder.local("x.npy") as path:
        assert np.load(path).tolist() == list(range(9))
    folder.remove("x.npy")
    folder.remove("x.npy")
    assert folder.names() - {".lock"} == {"plan.json"}
    with pytest.raises(FileNotFoundError), folder.local("x.npy"):
        pass


def test_what_was_damaged_is_seen_on_a_disk_and_at_a_url_if_its_size_tells(tmp_path: Path):
    disk, url = DiskFolder(tmp_path), UrlFolder(f"file://{tmp_path}")
    (tmp_path / "x").write_bytes(b"whole")
    digest = sha256_of(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"whale")
    assert not disk.is_same("x", 5, digest)
    assert url.is_same("x", 5, digest)
    assert not url.is_same("x", 6, digest)


def test_what_is_no_folder_of_shards_is_refused(folder, tmp_path: Path):
    require_free(folder, tokens=("tokens.json",), left={"lost+found"})
    folder.create()
    for name in ("lost+found", "thesis.tex"):
        with folder.new(name) as path:
            path.write_bytes(b"1")
        if name == "lost+found":
            require_free(folder, tokens=("tokens.json",), left={"lost+found"})
    with pytest.raises(UserError, match="exists and holds no token shards; choose another --out"):
        require_free(folder, tokens=("tokens.json",), left={"lost+found"})
    write_json(folder, "tokens.json", {})
    require_free(folder, tokens=("tokens.json",), left={"lost+found"})


def test_urls_that_nobody_reads_are_refused():
    with pytest.raises(UserError, match=r"nothing://x: fsspec cannot read it: .*nothing"):
        open_folder("nothing://x")
    with pytest.raises(UserError, match=r"s3://b/x needs s3fs .*: pip install s3fs"):
        open_folder("s3://b/x")
