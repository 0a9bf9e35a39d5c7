# SPDX-License-Identifier: Apache-2.0
"""Names of which one process at a time holds each, on whatever machine that shares the folder."""

import fcntl
import hashlib
import os
import weakref
from pathlib import Path

from checkpoints.files import WITHOUT_LOCKS, tell_without_locks


class NameLocks:
    """Each name is a byte of the file, which stays empty. What a process holds is free when it
    ends, killed or not. Between threads of one process they hold nobody off.

    Of a file system that knows no locks it says so, on stderr, and goes on.
    """

    def __init__(self, path: Path):
        self._path, self._file = path, os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self._file)
        self._is_told = False

    def take(self, name: str) -> bool:
        """False: another process holds it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(name))
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS or not self._is_told:
                tell_without_locks(self._path.parent, error)
            self._is_told = True
        return True

    def give_back(self, name: str) -> None:
        """What `take` was True for."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(name))
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise


def _byte(name: str) -> int:
    """Which one; two names never share one but by a chance of 1 in 2^62."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 2
