# SPDX-License-Identifier: Apache-2.0
"""What a run shows and records while it trains: the progress bar, and a record of every few
steps. Knows numbers and their names, not what is trained."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recurrentgemma.errors import UserError
from training.observe.stopwatch import Stopwatch
from training.observe.trackers import Tracker

LINE_EVERY_S = 60.0  # where there is no terminal to draw a bar on: a log of a batch job
SMOOTHING = 0.95  # of the bar's mean loss; a record has the loss of the step itself


class Diverged(UserError):
    """Too many steps in a row were not finite."""


class _Dispatched(NamedTuple):
    """A step whose metrics may not be there yet, and what is known of it already."""

    step: int
    metrics: Mapping[str, Any]
    known: dict[str, float]
    evaluated: dict[str, float]


class TrainingProgress:
    """Reports each step one step late, so that reading its metrics does not hold up the next one.

        with TrainingProgress([MetricsLog(path, step=0)], watch, steps=1000) as progress:
            for step in range(1, 1001):
                state, metrics = train_step(state, batch)   # {"loss": ..., "grad_norm": ...}
                progress.step(step, metrics, epoch=batches.epoch)

    A record has the step, every one of its metrics as a number, what `derived` makes of these, what
    `step` and `evaluated` were given besides, and the stopwatch's readings.

    trackers: get a record every `log_every` steps, of the last one, and of those that were
    evaluated; none in processes but the first, which show no bar either. watch: told when each step
    is there. headline: the metric that the bar shows as a mean; with bits_per_byte, if `derived`
    makes it. A metric `skipped`, if there is one, counts the steps that were not finite: each is
    reported, and `skip_limit` of them in a row end the run. step, skipped, skipped_in_a_row: where
    the run goes on from.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        watch: Stopwatch,
        *,
        steps: int,
        log_every: int = 10,
        skip_limit: int = 10,
        headline: str = "loss",
        derived: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: {},
        step: int = 0,
        skipped: int = 0,
        skipped_in_a_row: int = 0,
        shown: bool = True,
    ) -> None:
        self._trackers, self._watch, self._derived = trackers, watch, derived
        self._steps, self._log_every, self._skip_limit = steps, log_every, skip_limit
        self._headline = headline
        self._dispatched: _Dispatched | None = None
        self._smooth: float | None = None
        self._skipped = skipped
        self.skipped_in_a_row = skipped_in_a_row
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120),
            disable=not shown,
        )
        self._is_shown = shown
        self._draws_bar = self._bar.console.is_terminal
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        self._task = self._bar.add_task("", total=steps, completed=step, shown="compiling")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as last:
            for tracker in self._trackers:
                last.callback(tracker.close)
            last.callback(self._bar.stop)
            if error is None:
                self.flush()

    def step(self, step: int, metrics: Mapping[str, Any], **known: float) -> None:
        """Take the metrics of a step just dispatched, and report the one before.

        Raises Diverged: that one is the last of skip_limit that were not finite.
        """
        before, self._dispatched = self._dispatched, _Dispatched(step, metrics, known, {})
        self._report(before)

    def evaluated(self, numbers: Mapping[str, float]) -> None:
        """Add an evaluation to the record of the step just dispatched, which is then written
        whatever its number."""
        assert self._dispatched is not None
        self._dispatched.evaluated.update(numbers)
        self.pause()

    def flush(self) -> None:
        """Report the last step too, waiting for it."""
        before, self._dispatched = self._dispatched, None
        self._report(before)
        self.pause()

    def pause(self) -> None:
        """Something else than a step takes time from here on."""
        self._watch.interrupted()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._is_shown:
            self._bar.console.print(line, highlight=False)

    def _report(self, dispatched: _Dispatched | None) -> None:
        if dispatched is None:
            return
        step, metrics, known, evaluated = dispatched
        value = float(metrics[self._headline])  # waits for the step
        self._watch.step()
        self._count_skipped(step, int(metrics.get("skipped", 0)))
        if math.isfinite(value):
            smooth = value if self._smooth is None else self._smooth
            self._smooth = SMOOTHING * smooth + (1 - SMOOTHING) * value
        if self._smooth is not None:
            self._show(step, self._smooth)
        if step % self._log_every == 0 or step == self._steps or evaluated:
            record = {"step": step} | {name: _number(value) for name, value in metrics.items()}
            record |= self._derived(record) | known | evaluated | self._watch.readings()
            for tracker in self._trackers:
                tracker.write(record)
        if self.skipped_in_a_row >= self._skip_limit:
            raise Diverged(
                f"step {step}: loss or gradient was not finite in {self._skip_limit} steps in a "
                "row, so the run ends here; its last checkpoint is from before or has the "
                "parameters from before: lower the learning rate, look at the data, or raise "
                "skip_limit (`griffin train --skip-limit`, which goes on with any run)"
            )

    def _count_skipped(self, step: int, skipped: int) -> None:
        before, self._skipped = self._skipped, skipped
        if skipped > before:
            self.skipped_in_a_row += 1
            self.say(f"step {step:,}: loss or gradient is not finite; step skipped")
        else:
            self.skipped_in_a_row = 0

    def _show(self, step: int, smooth: float) -> None:
        shown = f"mean {self._headline} {smooth:.3f}"
        bits = self._derived({"step": step, self._headline: smooth}).get("bits_per_byte")
        if bits is not None:
            shown += f"  {bits:.3f} bits/byte"
        if (rate := self._watch.items_per_second) is not None:
            shown += f"  {rate:,.0f} {self._watch.unit}/s"
        self._bar.update(self._task, completed=step, shown=shown)
        if not self._draws_bar and time.monotonic() >= self._next_line_s and step < self._steps:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self.say(f"step {step:,} of {self._steps:,}: {shown}")


def _number(value: Any) -> int | float:
    """A scalar array as Python's number, which does not end at 2^31."""
    scalar = np.asarray(value)
    return int(scalar) if np.issubdtype(scalar.dtype, np.integer) else float(scalar)
