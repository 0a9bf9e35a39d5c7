# SPDX-License-Identifier: Apache-2.0
"""Where token shards are written: a folder on a disk, or one in a store that fsspec can write
(`s3://bucket/tokens`). A file is there whole or not at all.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from checkpoints.files import LOCK, locked, new_file
from recurrentgemma.errors import UserError
from training.data.sources.files import file_system, is_url

# Stores that put a file whole or not at all. In others it gets its name once it is there.
WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}


class ShardFolder(Protocol):
    """Safe to pickle."""

    def __str__(self) -> str: ...

    def exists(self) -> bool:
        """Whether there is a folder, or a file in its place."""
        ...

    def create(self) -> None: ...

    def names(self) -> set[str]:
        """Of its files."""
        ...

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where there is none."""
        ...

    def is_same(self, name: str, size: int, sha256: str) -> bool:
        """Whether a file that is there is what was written, as far as is worth reading it."""
        ...

    def remove(self, name: str) -> None: ...

    def new(self, name: str) -> AbstractContextManager[Path]:
        """A path on this machine's disk, whose content is the file's at the end."""
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A file as a path on this machine's disk. Raises FileNotFoundError."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Only one program at a time writes here, where that can be had."""
        ...


def open_folder(place: str | Path) -> ShardFolder:
    """Raises UserError: fsspec knows no such URL, or lacks what it takes."""
    return UrlFolder(str(place)) if is_url(str(place)) else DiskFolder(Path(place))


class DiskFolder:
    """See `ShardFolder`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        return self.path.exists() or self.path.is_symlink()

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def names(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def is_same(self, name: str, size: int, sha256: str) -> bool:
        return self.size(name) == size and sha256_of(self.path / name) == sha256

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def new(self, name: str) -> AbstractContextManager[Path]:
        return new_file(self.path / name)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        if not (self.path / name).is_file():
            raise FileNotFoundError(f"there is no file {self.path / name}")
        yield self.path / name

    def locked(self) -> AbstractContextManager[None]:
        return locked(self.path)


class UrlFolder:
    """See `ShardFolder`. A store knows no locks: two programs that write the same shards write the
    same bytes. What is there is judged by its size, as reading it costs what writing it did."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._open()

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.url = state["url"]
        self._open()

    def exists(self) -> bool:
        return bool(self._fs.exists(self._root))

    def create(self) -> None:
        self._fs.makedirs(self._root, exist_ok=True)

    def names(self) -> set[str]:
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._root):
            return set()
        return {os.path.basename(path.rstrip("/")) for path in self._fs.ls(self._root, False)}

    def size(self, name: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._fs.size(self._path(name)))
        except FileNotFoundError:
            return None

    def is_same(self, name: str, size: int, sha256: str) -> bool:
        return self.size(name) == size

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            yield path
            if WHOLE & set(self._protocols):
                self._fs.put_file(str(path), self._path(name))
                return
            unfinished = self._path(f".{name}.{uuid.uuid4().hex}.tmp")
            self._fs.put_file(str(path), unfinished)
            self._fs.mv(unfinished, self._path(name))

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            with self._fs.open(self._path(name), "rb") as there, path.open("wb") as here:
                shutil.copyfileobj(there, here)
            yield path

    def locked(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _open(self) -> None:
        self._fs, self._root = file_system(self.url)
        protocol = self._fs.protocol
        self._protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def read_json(folder: ShardFolder, name: str) -> dict[str, Any]:
    with folder.local(name) as path:
        return json.loads(path.read_text(encoding="utf-8"))


def write_json(folder: ShardFolder, name: str, content: dict[str, Any]) -> None:
    with folder.new(name) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free(folder: ShardFolder, *, tokens: tuple[str, ...], left: set[str]) -> None:
    """Check, before the sources are read, that there is nothing, an empty folder, or shards: one of
    the names in `tokens` tells. left: names that do not count. Raises UserError."""
    names = folder.names()
    if names.isdisjoint(tokens) and (names - left - {LOCK} or (not names and _is_taken(folder))):
        raise UserError(f"{folder} exists and holds no token shards; choose another --out")


def _is_taken(folder: ShardFolder) -> bool:
    """Whether what has no files is no folder."""
    return isinstance(folder, DiskFolder) and folder.exists() and not folder.path.is_dir()
