# SPDX-License-Identifier: Apache-2.0
"""Any folder by a path that Orbax and TensorStore take literally.

Orbax looks for its own files with globs of whole paths, so `[1]` in one finds nothing. TensorStore
reads `\\` as `/`, refuses names that end in `.__lock`, and where it is given URLs `#`, `?`, `%` and
`|` mean something else. A folder whose path has none of these is used as it is; any other one is
reached through a symbolic link in the system's temporary directory.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from recurrentgemma.errors import UserError

PLAIN = re.compile(r"[A-Za-z0-9_./+=,-]*")
LOCK = ".__lock"  # TensorStore's own files


def is_plain(path: Path) -> bool:
    """Whether Orbax and TensorStore take every part of a path literally."""
    return bool(PLAIN.fullmatch(str(path))) and not any(p.endswith(LOCK) for p in path.parts)


def plain(folder: Path) -> Path:
    """The absolute path of a folder, which need not exist yet, or of a link to it.

    The link lasts as long as this process; ask again where much time may have passed. What is
    opened or written below it needs a plain name, too.

    Raises:
      UserError: it needs a link, and the temporary directory's path is not plain either.
    """
    folder = folder.absolute()
    if ".." in folder.parts:  # which TensorStore refuses
        folder = folder.resolve()
    if is_plain(folder):
        return folder
    link = _links() / hashlib.sha256(os.fsencode(folder)).hexdigest()
    link.parent.mkdir(exist_ok=True)  # programs that clear /tmp may have deleted it
    with contextlib.suppress(FileExistsError):
        link.symlink_to(folder)
    return link


@functools.cache
def _links() -> Path:
    home = Path(tempfile.gettempdir()).absolute()
    if not is_plain(home):
        raise UserError(
            f"{home}: to reach a folder whose path holds other characters than letters, digits and "
            "_ . + = , - a link is made in the temporary directory, and its path holds others, "
            "too: set TMPDIR to a folder whose path does not"
        )
    links = Path(tempfile.mkdtemp(prefix="griffin-", dir=home))
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    return links
