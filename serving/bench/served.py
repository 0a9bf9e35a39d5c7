# SPDX-License-Identifier: Apache-2.0
"""A `griffin serve` of its own for a measurement, in a process of its own, as a user starts it."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from recurrentgemma.errors import UserError

_AT = re.compile(r"serving at (https?://\S+)")
_ENDS_IN_S = 20.0
_BOX = "╭╮╰╯│─"  # around what tyro answers to an option that it does not know
SERVE = (sys.executable, "-m", "griffin_lm", "serve")


class Served(NamedTuple):
    """A server that is ready."""

    url: str
    process: int

    def memory_bytes(self) -> int | None:
        """What the process holds of the host's memory; None where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process}/status").read_text()
        except OSError:
            return None
        kilobytes = re.search(r"VmRSS:\s+(\d+)", status)
        return int(kilobytes[1]) * 1024 if kilobytes else None


@contextlib.contextmanager
def served(path: str, options: Sequence[str] = ()) -> Iterator[Served]:
    """A server of the model at `path`, on a free port. Raises UserError with what it says when it
    does not start."""
    command = [*SERVE, path, "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            yield Served(_wait(process.stdout), process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_ENDS_IN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(output: IO[str]) -> str:
    """Read what the server says until it is ready, and on beside whatever else is done."""
    lines: list[str] = []
    for line in output:
        lines.append(line)
        if at := _AT.search(line):
            threading.Thread(target=_drain, args=(output,), daemon=True).start()
            return at[1]
    words = [line.strip(_BOX + " \n") for line in lines]
    words = [line for line in words if line] or ["without a word"]
    last = words[-1].removeprefix("error: ")
    if lines and lines[-1].startswith(_BOX[2]):
        last = " ".join(words)
    raise UserError(f"griffin serve did not start: {last}")


def _drain(output: IO[str]) -> None:
    with contextlib.suppress(ValueError):  # closed meanwhile
        for _ in output:
            pass
