# SPDX-License-Identifier: Apache-2.0
"""Files of a source, on disk or at a URL that fsspec reads (`s3://`, `gs://`, `https://`).

Those at a URL are read through a buffer that reads ahead, so that going through a file in its order
costs little more than copying it; jumping about in one does.
"""

import functools
import os
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from recurrentgemma.errors import MissingExtra, UserError

AHEAD = 1 << 23  # bytes of a URL's file that are read at once
OPEN = 8  # files at URLs that are kept open
_URL = re.compile(r"[a-z][a-z0-9+.-]*(://|::)")
Result = TypeVar("Result")


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it. Raises MissingExtra, UserError: fsspec lacks the
    package that reads such URLs, or does not know them."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
        name = package.get(url.split(":")[0], "the package that it names")
        raise MissingExtra(f"{url} needs {name} ({error}): pip install {name}") from None
    except ValueError as error:
        raise UserError(f"{url}: fsspec cannot read it: {error}") from None


def find_urls(pattern: str) -> list[str]:
    """The files that a URL with wildcards names, as URLs, sorted."""
    fs, path = file_system(pattern)
    if fs.isfile(path):
        return [pattern]
    files = sorted(name for name in fs.glob(path) if fs.isfile(name))
    return [fs.unstrip_protocol(name) for name in files]


def size_of(path: str) -> int:
    """Bytes of a file."""
    if not is_url(path):
        return os.path.getsize(path)
    fs, name = file_system(path)
    return int(fs.size(name))


def read_file(path: str) -> bytes:
    """All of it."""
    if not is_url(path):
        with open(path, "rb") as file:
            return file.read()
    fs, name = file_system(path)
    return fs.cat_file(name)


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file; fewer where it ends before."""
    if not is_url(path):
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), stop - start, start)

    def read(file: Any) -> bytes:
        file.seek(start)
        return file.read(stop - start)

    return read_from(path, read)


def read_from(path: str, read: Callable[[Any], Result]) -> Result:
    """What `read` makes of an open file, which no other thread uses in the meantime."""
    if not is_url(path):
        with open(path, "rb") as file:
            return read(file)
    file, lock = _opened(path)
    with lock:
        return read(file)


@functools.lru_cache(maxsize=OPEN)
def _opened(path: str) -> tuple[Any, threading.Lock]:
    fs, name = file_system(path)
    options = {} if "file" in fs.protocol else {"cache_type": "readahead", "block_size": AHEAD}
    return fs.open(name, "rb", **options), threading.Lock()
