# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, whenever the process is killed; directories that one
program at a time writes; and what is not there told from what cannot be looked at."""

import contextlib
import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from recurrentgemma.errors import UserError

LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # what is there is not what was written


def is_dir(path: Path) -> bool:
    """Whether a directory is there.

    Raises:
      OSError: that cannot be known (no permission, a lost mount), where Path.is_dir may say no.
    """
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """Whether a file is there. Raises OSError as is_dir."""
    return stat.S_ISREG(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno not in MISSING:
            raise
        return 0


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when it is whole and on disk.

    Until then it is `.NAME.PID.tmp` beside it, which a killed process leaves behind.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Only one program at a time writes a directory; the system frees the lock when it ends. Of a
    file system that knows no locks it says so, on stderr, and goes on.

    Raises:
      ValueError: another program holds it.
    """
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{directory} is being written by another process; wait for it to end"
            raise UserError(message) from None
        except OSError as error:
            tell_without_locks(directory, error)
        yield


def tell_without_locks(directory: Path, error: OSError) -> None:
    """Say so, on stderr, where the file system knows no locks. Raises the error: it is another."""
    if error.errno not in WITHOUT_LOCKS:
        raise error
    print(
        f"{directory} is on a file system without locks ({error.strerror}): see to it that only "
        "one program writes there",
        file=sys.stderr,
    )


def url_in(path: Path) -> str | None:
    """The URL that a path was made of, where a command takes none."""
    text = str(path)
    return text.replace(":/", "://", 1) if re.match(r"[a-z][a-z0-9+.-]+:/", text) else None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of writing to an open file says which file it is."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
