# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: one line of JSON for each logged step, each step once, however often the run was
interrupted."""

import json
import math
from pathlib import Path
from typing import Any

from checkpoints.files import naming, new_file

TIMINGS = ("tokens_per_second", "mfu", "goodput", "data_wait", "memory_bytes")
"""What the machine did. All else in a record is the same in every run of the same config."""


def bits_per_byte(nats_per_token: float, *, bytes_per_token: float) -> float:
    """Bits of surprise per byte of UTF-8 text: independent of the tokenizer, unlike nats per
    token."""
    return nats_per_token / math.log(2.0) / bytes_per_token


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records in order; none if there is no file yet. A last line cut off by a crash is left
    out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [
        json.loads(line) for line in lines[:-1]
    ]  # after the last newline: nothing, or half a line


class MetricsLog:
    """Appends records to metrics.jsonl, beginning after the records of steps up to `step`.

    Lines of later steps, left by a run that was killed after its last checkpoint, are removed
    first: the resumed run computes those steps again.
    """

    def __init__(self, path: Path, *, step: int) -> None:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        wanted = "".join(json.dumps(record) + "\n" for record in kept)
        if text != wanted:
            with new_file(path) as unfinished:
                unfinished.write_text(wanted, encoding="utf-8")
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """One line, in the file when this returns. Numbers that are not finite become null, so that
        it stays JSON. Raises OSError, with the path: there is no space for it."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        line = (json.dumps(finite) + "\n").encode()
        with naming(self._path):
            while line:
                line = line[self._file.write(line) :]

    def close(self) -> None:
        self._file.close()
