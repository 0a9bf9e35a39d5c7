"""A name is held by one process at a time."""

import errno
import fcntl
import subprocess
import sys

import pytest

from serving.features.name_locks import NameLocks

OTHER = """
import sys
from pathlib import Path
from serving.features.name_locks import NameLocks
locks = NameLocks(Path(sys.argv[1]))
print(locks.take("ann"), locks.take("bob"), flush=True)
sys.stdin.read()
"""


def test_of_two_processes_one_holds_it_until_it_ends(tmp_path):
    locks = NameLocks(tmp_path / ".locks")
    assert locks.take("bob")
    command = [sys.executable, "-c", OTHER, str(tmp_path / ".locks")]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True False\n"
        assert not locks.take("ann")
        assert locks.take("carol")
        other.kill()
    assert locks.take("ann")
    for name in ("ann", "bob"):
        locks.give_back(name)
    with subprocess.Popen(command, stdin=-1, stdout=-1) as other:
        assert other.communicate()[0] == b"True True\n"


def test_a_file_system_without_locks_is_told_of_once(tmp_path, monkeypatch, capsys):
    locks = NameLocks(tmp_path / ".locks")

    def fails(number: int) -> None:
        def lockf(*_) -> None:
            raise OSError(number, "it is not supported")

        monkeypatch.setattr(fcntl, "lockf", lockf)

    fails(errno.ENOLCK)
    assert locks.take("ann")
    assert locks.take("bob")
    locks.give_back("ann")
    assert capsys.readouterr().err.count("without locks (it is not supported)") == 1
    fails(errno.EIO)
    with pytest.raises(OSError, match="not supported"):
        locks.take("ann")
    with pytest.raises(OSError, match="not supported"):
        locks.give_back("ann")
