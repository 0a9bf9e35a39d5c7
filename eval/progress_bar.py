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
        self._last: tuple[float, str, float | None, float] | None = None  # and when that was

    def update(self, done: float, shown: str = "", *, expected: float | None = None) -> None:
        """done: items so far, those of before included, if it goes on. shown: beside the rate.
        expected: at its end, where that is known by now."""
        now = time.monotonic()
        if self._before is None:
            self._before, self._started = done, now
        self._last = (done, shown, expected, now)
        if now - self._shown >= SHOWN_EVERY:
            self.draw()

    def draw(self) -> None:
        """Show the last update, which may have come too soon after the one before."""
        if self._last is None:
            return
        done, shown, expected, now = self._last
        self._shown = now
        parts = [f"{done:,.0f} {self._unit}"]
        if done > (self._before or 0.0) and now > self._started:
            rate = (done - (self._before or 0.0)) / (now - self._started)
            parts.append(f"{rate:,.{0 if rate >= 10 else 2}f} {self._unit}/s")
        text = "  ".join([*parts, *([shown] if shown else [])])
        known = {} if expected is None else {"total": expected}
        self._bar.update(self._task, completed=done, shown=text, **known)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.console.print(line, highlight=False, markup=False)


@contextlib.contextmanager
def progress_bar(
    label: str, expected: float | None = None, *, unit: str = "tokens"
) -> Iterator[ProgressBar]:
    """A bar while the block runs. expected: items at the end, where that is known."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[shown]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True, width=None if sys.stderr.isatty() else 120),
    )
    task = bar.add_task(label, total=expected, shown="compiling")
    with bar:
        shown = ProgressBar(bar, task, unit)
        yield shown
        shown.draw()
