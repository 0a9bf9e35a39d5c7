# SPDX-License-Identifier: Apache-2.0
"""The progress bar of an evaluation, on stderr."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

SHOWN_EVERY = 0.2  # seconds


class ProgressBar:
    """How far an evaluation has come."""

    def __init__(self, bar: Any, task: Any, unit: str) -> None:
        self._bar, self._task, self._unit = bar, task, unit
        self._started = self._shown = time.monotonic()
        self._before: float | None = None  # what an evaluation that goes on had done before

    def update(self, done: float, shown: str = "", *, expected: float | None = None) -> None:
        """done: items so far, those of before included, if it goes on. shown: beside the rate.
        expected: at its end, where that is known by now."""
        now = time.monotonic()
        if self._before is None:
            self._before, self._started = done, now
        if now - self._shown < SHOWN_EVERY:
            return
        self._shown = now
        rate = (done - self._before) / max(now - self._started, 1e-9)
        text = f"{done:,.0f} {self._unit}  {rate:,.0f} {self._unit}/s  {shown}"
        known = {} if expected is None else {"total": expected}
        self._bar.update(self._task, completed=done, shown=text, **known)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.console.print(line, highlight=False)


@contextlib.contextmanager
def progress_bar(
    label: str, expected: float | None = None, *, unit: str = "tokens"
) -> Iterator[ProgressBar]:
    """A bar while the block runs. expected: items at the end, where that is known."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(label),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True, width=None if sys.stderr.isatty() else 120),
    )
    task = bar.add_task("", total=expected, shown="compiling")
    with bar:
        yield ProgressBar(bar, task, unit)
