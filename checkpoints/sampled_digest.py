# SPDX-License-Identifier: Apache-2.0
"""What tells a checkpoint's files from others of the same names, without reading all of them: for a
command that is to know its model again, and for machines that are to see the same one.

A model that was trained on, or put in another's place, differs in any part of its files. What
differs in single bytes is found where all weights are read (session_file.weights_fingerprint).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from checkpoints.store import STEPS, latest_step

WHOLE = 1 << 20  # bytes of a file that is read to its end
BLOCK, BLOCKS = 1 << 12, 256  # of a larger one so many are read, at equal distances
BESIDE = {".json", ".jinja", ".model", ".txt"}  # what a run has beside its steps: no logs


def sampled_digest(path: str | Path) -> str | None:
    """Of a checkpoint's file or folder, or of a run's last step. None: there is no such path.

    Raises OSError: it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for name, file in sorted(_files(path)):
        size = file.stat().st_size
        digest.update(f"{name} {size}\n".encode())
        with file.open("rb") as content:
            if size <= WHOLE:
                digest.update(content.read())
                continue
            for block in range(BLOCKS):
                content.seek(block * (size - BLOCK) // (BLOCKS - 1))
                digest.update(content.read(BLOCK))
    return digest.hexdigest()[:32]


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """By name."""
    if path.is_file():
        yield "", path
        return
    step = latest_step(path)
    if step is None:
        yield from _all(path)
        return
    yield from _all(path / STEPS / str(step))
    yield from ((file.name, file) for file in path.iterdir() if file.suffix in BESIDE)


def _all(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), file
