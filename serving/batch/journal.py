# SPDX-License-Identifier: Apache-2.0
"""What of a batch is answered, as it is answered, and at the end its two files, in order.

    OUT.jsonl.part     {"batch": ...}, what the answers depend on; {"model": ...}, once it is known;
                       then a line for each that is answered, the first to end first
    OUT.jsonl          at the end: the answers, in the order of the requests
    OUT.errors.jsonl   at the end: the lines that were refused, if there are any

A line is whole or cut off at the next start, so that a batch that was killed, whenever that was,
goes on by the same command and answers nothing twice. The id of an answer is a digest of its
custom_id and of what the batch depends on, so that files tell whether they are this batch's.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from checkpoints.files import naming, new_file
from recurrentgemma.errors import UserError
from serving.batch.answerer import Response
from serving.batch.lines import Requests

# Of what a batch depends on these are named in messages, and not shown.
DIGESTS = ("requests", "files of the model", "config", "chat template")


class Journal:
    """Of the batch `requests`; `settings` are what else its answers depend on."""

    def __init__(self, file: BinaryIO, path: Path, requests: Requests, settings: Mapping[str, Any]):
        self.done: dict[str, tuple[int, bool]] = {}  # custom_id -> (where, whether it is an answer)
        self.tokens = 0
        self._file, self._path, self._requests = file, path, requests
        self._model: Mapping[str, Any] | None = None
        self._batch = _batch(requests, settings)
        self._read()

    @property
    def refused(self) -> int:
        return sum(not answer for _, answer in self.done.values())

    def add(self, response: Response) -> None:
        """Keep a line that is answered."""
        custom_id, place = response.line.custom_id, self._file.tell()
        record = response.record(_number(self._batch, custom_id))
        self._write(record)
        self._count(custom_id, place, record)

    def hold_to(self, model: Mapping[str, Any]) -> None:
        """What tells the model that answers from another one. Raises UserError: the answers that
        are kept are another's."""
        if self._model is None:
            self._model = model
            self._write({"model": model})
        different = [name for name in model if self._model.get(name) != model[name]]
        if different:
            raise UserError(
                f"{self._path} was begun with another model ({', '.join(different)}): give another "
                "OUT, or remove it to begin anew"
            )

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

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

    def _read(self) -> None:
        """What an earlier start has kept; the end of a line that is not whole is cut off. Where it
        has no answers, they cannot be another batch's."""
        end, batch = 0, {}
        for content in iter(self._file.readline, b""):
            if not content.endswith(b"\n"):
                break
            try:
                record = json.loads(content)
                if end == 0:
                    batch = dict(record["batch"])
                elif "model" in record:
                    self._model = record["model"]
                else:
                    self._count(record["custom_id"], end, record)
            except (ValueError, LookupError, TypeError, AttributeError):
                raise UserError(f"{self._path} is damaged: remove it, and begin anew") from None
            end += len(content)
        if self.done:
            self._check(batch)
        else:
            end, self._model = 0, None
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._write({"batch": self._batch})

    def _check(self, there: Mapping[str, Any]) -> None:
        here = self._batch
        different = [name for name in here if there.get(name) != here[name]]
        if different:
            shown = "; ".join(
                f"other {name}"
                if name in DIGESTS
                else f"{name} {there.get(name)!r} (here {here[name]!r})"
                for name in different
            )
            raise UserError(
                f"{self._path} was begun with {shown}: give another OUT, or remove it to begin anew"
            )


@contextlib.contextmanager
def open_journal(out: Path, requests: Requests, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal beside `out`, which nobody else writes meanwhile, and which does not stay where
    nothing was answered. Raises UserError: it is of another batch, damaged, or being written."""
    path = _journal(out)
    with naming(path), open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{path} is being written by another process; wait for it to end"
            raise UserError(message) from None
        journal = Journal(file, path, requests, settings)
        try:
            yield journal
        finally:
            if not journal.done:
                path.unlink(missing_ok=True)


def finished(out: Path, errors: Path, requests: Requests, settings: Mapping[str, Any]) -> bool:
    """Whether these are the files of this batch, all of it, by the ids of the answers. Raises
    UserError: there is another file of that name."""
    journal = _journal(out)
    if not out.exists():
        if errors.exists() and not journal.exists():
            raise UserError(f"{errors} is there, and no {out.name}: remove it, or move it away")
        return False
    ids = []
    for path in (out, errors):
        if path.exists():
            with contextlib.suppress(ValueError, LookupError, TypeError), path.open("rb") as file:
                ids += [json.loads(line)["id"] for line in file]
    batch = _batch(requests, settings)
    if sorted(ids) != sorted(f"batch_req_{_number(batch, name)}" for name in requests.numbers):
        raise UserError(
            f"{out} is there, and with {errors.name} (if any line was refused) it is not of these "
            "requests by this model with these options: give another, or remove it"
        )
    journal.unlink(missing_ok=True)  # of one that was killed at its very end
    return True


def _batch(requests: Requests, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What its answers depend on, as JSON has it."""
    return json.loads(json.dumps({"requests": requests.digest, **settings}))


def _number(batch: Mapping[str, Any], custom_id: str) -> str:
    """Of a request of this batch."""
    return hashlib.sha256(json.dumps([batch, custom_id]).encode()).hexdigest()[:32]


def _journal(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")
