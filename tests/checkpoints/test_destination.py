# SPDX-License-Identifier: Apache-2.0
"""Where a command may write: something new or empty; all else is refused before the work."""

import os
from pathlib import Path

import pytest

from checkpoints import destination, store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from recurrentgemma.errors import UserError
from tests.checkpoints.conftest import random_params, small_config

CONFIG = small_config()


def fill(path: Path) -> None:
    with destination.new_directory(path) as folder:
        (folder / "params").mkdir(parents=True)
        for name in ("config.json", "params/array"):
            (folder / name).write_text(name)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_new_directory_appears_whole(tmp_path):
    with destination.new_directory(tmp_path / "a" / "b") as folder:
        folder.mkdir()
        (folder / "x").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == ["x"]


@pytest.mark.parametrize("kind", ["empty", "link", "dot", "link to dot", "fresh disk"])
def test_an_empty_directory_is_filled_in_place(tmp_path, monkeypatch, kind):
    real = tmp_path / "real"
    real.mkdir()
    before = real.stat().st_ino
    path = real
    if "link" in kind:
        path = tmp_path / "link"
        path.symlink_to(real)
    if "dot" in kind:
        monkeypatch.chdir(path)
        path = Path(".")
    left = ["lost+found"] if kind == "fresh disk" else []
    for name in left:
        (real / name).mkdir()
    fill(path)
    assert names(real) == ["config.json", *left, "params"]
    assert real.stat().st_ino == before, "a mount, or somebody's working directory, stays itself"
    assert names(tmp_path) == (["link", "real"] if "link" in kind else ["real"])


@pytest.mark.parametrize("kind", ["full", "file", "broken link", "hidden"])
def test_all_else_is_refused_before_the_work(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "file":
        path.write_text("x")
    elif kind == "broken link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
        (path / (".x" if kind == "hidden" else "x")).write_text("x")
    with pytest.raises(ValueError, match=r"there: exists already; remove it"):
        fill(path)
    with pytest.raises(ValueError, match=r"there: exists already"):  # before the source is opened
        convert(tmp_path / "no source", path, "griffin")


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_below_what_is_no_directory(tmp_path, kind):
    above = tmp_path / "above"
    if kind == "file":
        above.write_text("x")
    else:
        above.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"above is no directory to write there into"):
        convert(tmp_path / "no source", above / "a" / "there", "griffin")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        fill(tmp_path)


def test_a_failure_leaves_an_empty_directory_empty(tmp_path):
    def failing() -> None:
        with destination.new_directory(tmp_path) as folder:
            folder.mkdir()
            (folder / "config.json").write_text("x")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        failing()
    assert names(tmp_path) == []


@pytest.mark.parametrize("to", ["griffin", "huggingface", "deepmind-flax"])
def test_a_checkpoint_in_the_current_directory(tmp_path, monkeypatch, to):
    store.write(tmp_path / "ours", random_params(CONFIG), CONFIG)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(tmp_path / "ours", ".", to)
    assert load_checkpoint(".")[1] == CONFIG


def test_a_file_and_what_may_not_lie_beside_it(tmp_path):
    def put(name: str, beside: dict[str, bytes]) -> None:
        with destination.new_file(tmp_path / name, beside, ("tokenizer.model",)) as folder:
            folder.mkdir()
            for file, content in {name: b"x", **beside}.items():
                (folder / file).write_bytes(content)

    put("a.pt", {"tokenizer.model": b"a"})
    assert names(tmp_path) == ["a.pt", "tokenizer.model"]
    put("b.pt", {"tokenizer.model": b"a"})  # the same one serves both
    for beside in ({"tokenizer.model": b"other"}, {"byte_tokenizer.json": b"x"}, {}):
        with pytest.raises(ValueError, match=r"tokenizer\.model would be .* taken for c\.pt's"):
            put("c.pt", beside)
    with pytest.raises(ValueError, match=r"a\.pt: exists already"):
        put("a.pt", {"tokenizer.model": b"a"})
    (tmp_path / "d.json").write_text("x")
    with pytest.raises(ValueError, match=r"d\.json would be overwritten"):
        put("d.pt", {"tokenizer.model": b"a"})
    assert names(tmp_path) == ["a.pt", "b.pt", "d.json", "tokenizer.model"]
