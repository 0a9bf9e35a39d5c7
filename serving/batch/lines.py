# SPDX-License-Identifier: Apache-2.0
"""The requests of a batch, in OpenAI's format: a file with a JSON object a line.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "O ", ...}}

The whole file is checked before anything is answered, but for the bodies: what is wrong in one of
those is the answer to its line alone.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recurrentgemma.errors import UserError

URLS = ("/v1/completions", "/v1/chat/completions")
_SHOWN = 5  # of the lines that are wrong


class Line(NamedTuple):
    """One request; `number` counts from 1."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]


class Requests:
    """The lines of a file, which is read anew for each walk. Blank ones are left out.

    Raises UserError: there are none, or some are wrong; it names the first few with their numbers.
    """

    def __init__(self, path: Path):
        self._path = path
        self.numbers: dict[str, int] = {}  # custom_id -> number, in the file's order
        wrong, more, digest = [], 0, hashlib.sha256()
        for number, content in _lines(path):
            digest.update(content)
            try:
                custom_id = _parsed(number, content).custom_id
                if custom_id in self.numbers:
                    first = self.numbers[custom_id]
                    raise UserError(f"custom_id {custom_id!r} is that of line {first}, too")
                self.numbers[custom_id] = number
            except UserError as error:
                if len(wrong) < _SHOWN:
                    wrong.append(f"line {number}: {error}")
                else:
                    more += 1
        if wrong:
            last = [f"and {more:,} more"] if more else []
            raise UserError(f"{path}: " + "; ".join([*wrong, *last]))
        if not self.numbers:
            raise UserError(f"{path} has no requests: expected a JSON object a line")
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Line]:
        for number, content in _lines(self._path):
            yield _parsed(number, content)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, content in enumerate(file, 1):
            if content.strip():
                yield number, content


def _parsed(number: int, content: bytes) -> Line:
    try:
        line = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}") from None
    if not isinstance(line, dict):
        raise UserError("expected a JSON object")
    custom_id, method, url = (line.get(name) for name in ("custom_id", "method", "url"))
    if not isinstance(custom_id, str) or not custom_id:
        raise UserError(f"custom_id is {custom_id!r}: expected a name that no other line has")
    if method != "POST":
        raise UserError(f"method is {method!r}: expected 'POST'")
    if url not in URLS:
        raise UserError(f"url is {url!r}: expected {' or '.join(URLS)}")
    if not isinstance(line.get("body"), dict):
        raise UserError("body: expected a JSON object, the request")
    return Line(number, custom_id, url, line["body"])
