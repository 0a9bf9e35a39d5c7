# SPDX-License-Identifier: Apache-2.0
"""What of a batch is answered, as it is answered, and at the end its two files, in order.

    OUT.jsonl.part     {"batch": ...}, then a line for each that is answered, the first to end first
    OUT.jsonl          at the end: the answers, in the order of the requests
    OUT.errors.jsonl   at the end: the lines that were refused, if there are any

A line is whole or cut off at the next start, so that a batch that was killed, whenever that was,
goes on by the same command and answers nothing twice.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from checkpoints.files import naming, new_file
from recurrentgemma.errors import UserError
from serving.batch.answerer import Response
from serving.batch.lines import Requests


class Journal:
    """Of the batch `requests`; `settings` are what else its answers depend on."""

    def __init__(self, file: BinaryIO, path: Path, requests: Requests, settings: Mapping[str, Any]):
        self.done: dict[str, tuple[int, bool]] = {}  # custom_id -> (where, whether it is an answer)
        self.tokens = 0
        self._file, self._path, self._requests = file, path, requests
        self._read({"batch": {"input": requests.digest, **settings}})

    @property
    def refused(self) -> int:
        return sum(not answer for _, answer in self.done.values())

    def add(self, response: Response) -> None:
        """Keep a line that is answered."""
        place = self._file.tell()
        self._file.write(json.dumps(response.record()).encode() + b"\n")
        self._file.flush()
        self._count(response.line.custom_id, place, response.record())

    def finish(self, out: Path, errors: Path) -> None:
        """Write both files, and drop the journal."""
        assert len(self.done) == len(self._requests)
        for path, answers in ((errors, False), (out, True)):  # OUT last: with it all is there
            if path == errors and not self.refused:
                continue
            with naming(path), new_file(path) as unfinished, unfinished.open("wb") as written:
                for custom_id in self._requests.numbers:
                    place, answer = self.done[custom_id]
                    if answer == answers:
                        self._file.seek(place)
                        written.write(self._file.readline())
        self._path.unlink()

    def _count(self, custom_id: str, place: int, record: Mapping[str, Any]) -> None:
        response = record["response"]
        self.done[custom_id] = (place, response["status_code"] == 200)
        self.tokens += (response["body"].get("usage") or {}).get("completion_tokens", 0)

    def _read(self, head: Mapping[str, Any]) -> None:
        """What an earlier start has kept; the end of a line that is not whole is cut off."""
        end = 0
        for content in iter(self._file.readline, b""):
            if not content.endswith(b"\n"):
                break
            try:
                record = json.loads(content)
                if end == 0:
                    self._check(record, head)
                else:
                    self._count(record["custom_id"], end, record)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{self._path} is damaged: remove it, and begin anew") from None
            end += len(content)
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._file.write(json.dumps(head).encode() + b"\n")
            self._file.flush()

    def _check(self, record: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        there, here = record["batch"], head["batch"]
        different = [name for name in here if there.get(name) != here[name]]
        if different:
            shown = "; ".join(
                "other requests"
                if name == "input"
                else f"{name} {there.get(name)!r} (here {here[name]!r})"
                for name in different
            )
            raise UserError(
                f"{self._path} was begun with {shown}: give another OUT, or remove it to begin anew"
            )


@contextlib.contextmanager
def open_journal(out: Path, requests: Requests, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal beside `out`, which nobody else writes meanwhile. Raises UserError: it is of
    another batch, damaged, or being written."""
    path = _journal(out)
    with naming(path), open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{path} is being written by another process; wait for it to end"
            raise UserError(message) from None
        yield Journal(file, path, requests, settings)


def finished(out: Path, errors: Path, requests: Requests) -> bool:
    """Whether these are the files of this batch, all of it. Raises UserError: there is another
    file of that name."""
    journal = _journal(out)
    if not out.exists():
        if errors.exists() and not journal.exists():
            raise UserError(f"{errors} is there, and no {out.name}: remove it, or move it away")
        return False
    names = []
    for path in (out, errors):
        if path.exists():
            with contextlib.suppress(ValueError, LookupError, TypeError), path.open("rb") as file:
                names += [json.loads(line)["custom_id"] for line in file]
    if sorted(names) != sorted(requests.numbers):
        raise UserError(f"{out} is there, and not of these requests: give another, or remove it")
    journal.unlink(missing_ok=True)  # of one that was killed at its very end
    return True


def _journal(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")
