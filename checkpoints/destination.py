# SPDX-License-Identifier: Apache-2.0
"""Where a command writes: a new directory, an empty one, or a file; decided before the work begins.

Everything is written under another name on the same disk, and gets its own at the end. A new
directory appears whole or not at all. An empty one that exists, which may be the current directory,
a link or a mount, is filled: config.json, which makes it a checkpoint, comes last.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from recurrentgemma.errors import UserError

LEFT_BY_SYSTEM = {"lost+found"}  # what an empty file system holds


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to write, which does not exist yet; what is in it is at `path` at the end, and
    nowhere if something fails.

    Raises:
      ValueError: there is something at `path`.
    """
    require_free(path)
    filled = path.exists()
    home = path.resolve() if filled else path.parent
    home.mkdir(parents=True, exist_ok=True)
    with _scratch(home, path.name or "output") as scratch:
        yield scratch / "new"
        if not filled:
            (scratch / "new").replace(path)
            return
        files = sorted((scratch / "new").iterdir(), key=lambda file: file.name == "config.json")
        for file in files:
            file.replace(home / file.name)


@contextlib.contextmanager
def new_file(path: Path, beside: Mapping[str, bytes], exclusive: tuple[str, ...]) -> Iterator[Path]:
    """A directory to write, which does not exist yet, in which there will be a file of path's name;
    everything in it goes where that belongs, the file last.

    beside: what will be there besides. exclusive: names of which there may be no others there, as
    they would be taken for the file's.

    Raises:
      ValueError: there is something at `path`, or something that would be overwritten or taken for
        the file's.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: exists already; remove it, or choose another destination")
    home = path.parent
    home.mkdir(parents=True, exist_ok=True)
    taken = [n for n in (*exclusive, *beside) if (home / n).is_file()]
    taken = sorted({n for n in taken if (home / n).read_bytes() != beside.get(n)})
    side = path.with_suffix(".json")
    if side.exists():
        taken.append(side.name)
    if taken:
        raise UserError(
            f"{home}: {', '.join(taken)} would be overwritten, or be taken for {path.name}'s; "
            f"choose an empty directory"
        )
    with _scratch(home, path.name) as scratch:
        yield scratch / "new"
        for file in sorted((scratch / "new").iterdir(), key=lambda file: file.name == path.name):
            file.replace(home / file.name)


def require_free(path: Path) -> None:
    """Check that a directory can be made, or is there and empty.

    Raises:
      ValueError: there is a file, a link that leads nowhere, or a directory with something in it.
    """
    if path.is_dir():
        if all(entry.name in LEFT_BY_SYSTEM for entry in path.iterdir()):
            return
    elif not path.exists() and not path.is_symlink():
        above = next(parent for parent in path.parents if parent.exists() or parent.is_symlink())
        if above.is_dir():
            return
        raise UserError(f"{above} is no directory to write {path.name} into; choose another")
    raise UserError(f"{path}: exists already; remove it, or choose another destination")


@contextlib.contextmanager
def _scratch(home: Path, name: str) -> Iterator[Path]:
    folder = home / f".{name}.{os.getpid()}.partial"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
