# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, and directories that one program at a time writes."""

import errno
import fcntl
from pathlib import Path

import pytest

from checkpoints.files import locked, new_file


def test_a_file_that_is_not_finished_leaves_the_one_before(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("before")

    def write_half(unfinished: Path) -> None:
        unfinished.write_text("hal")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"), new_file(path) as unfinished:
        write_half(unfinished)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "before")]
    with new_file(path) as unfinished:
        unfinished.write_text("after")
        assert path.read_text() == "before"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "after")]


def test_a_second_program_is_refused_until_the_first_has_ended(tmp_path: Path):
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match="is being written by another process; wait for it"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(code: int):
        def flock(_file: object, _how: int) -> None:
            raise OSError(code, "no locks available")

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with locked(tmp_path):
        pass
    assert "without locks (no locks available): see to it that only one" in capsys.readouterr().err
    refuse(errno.EIO)
    with pytest.raises(OSError, match="no locks available"), locked(tmp_path):
        pass
