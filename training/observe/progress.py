# SPDX-License-Identifier: Apache-2.0
"""What a run shows and records while it trains: the progress bar, and a record of every few
steps."""

import contextlib
import math
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from recurrentgemma.errors import UserError
from training.configs import TrainConfig
from training.observe.metrics import bits_per_byte
from training.observe.stopwatch import Stopwatch
from training.observe.trackers import Tracker
from training.step import Metrics

SMOOTHING = 0.95  # of the bar's mean loss; a record has the loss of the step itself


class Diverged(UserError):
    """Too many steps in a row were not finite."""


class _Pending(NamedTuple):
    """A step that has been dispatched, and what is known of it already."""

    step: int
    metrics: Metrics
    known: dict[str, float]


class Progress:
    """Reports each step one step late, so that reading its metrics does not hold up the next one.

    A record has step, loss (nats per token), bits_per_byte (of the training text, by its mean bytes
    per token; left out where that is not known), grad_norm, param_norm, learning_rate, skipped,
    tokens (seen so far), padding (share of the batch), epoch, at evaluations
    held_out_bits_per_byte, and metrics.TIMINGS.

    step, skipped, skipped_in_a_row: where the run goes on from. watch: told when each step is
    there. trackers: get the records; none in processes but the first, which show no bar either.
    """

    def __init__(
        self,
        config: TrainConfig,
        trackers: Sequence[Tracker],
        watch: Stopwatch,
        *,
        bytes_per_token: float | None,
        step: int,
        skipped: int = 0,
        skipped_in_a_row: int = 0,
        shown: bool = True,
    ) -> None:
        self._config, self._trackers, self._watch = config, trackers, watch
        self._bytes_per_token = bytes_per_token
        self._pending: _Pending | None = None
        self._smooth: float | None = None
        self._skipped = skipped
        self.skipped_in_a_row = skipped_in_a_row
        self._bar = Bar(
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
        self._task = self._bar.add_task("", total=config.steps, completed=step, shown="compiling")

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

    def step(self, step: int, metrics: Metrics, **known: float) -> None:
        """Take the metrics of a step just dispatched, and report the one before.

        Raises Diverged: that one is the last of config.skip_limit that were not finite.
        """
        before, self._pending = self._pending, _Pending(step, metrics, known)
        self._report(before)

    def held_out(self, step: int, bits: float) -> None:
        """Add an evaluation to the record of the step just dispatched."""
        assert self._pending is not None
        self._pending.known["held_out_bits_per_byte"] = bits
        whole = step == self._config.steps
        part = "" if whole else f" (first {self._config.eval_tokens:,} tokens of each)"
        self.say(f"step {step:,}: held-out text{part}: {bits:.3f} bits per byte")
        self._watch.interrupted()

    def flush(self) -> None:
        """Report the last step too, waiting for it."""
        before, self._pending = self._pending, None
        self._report(before)
        self._watch.interrupted()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._is_shown:
            self._bar.console.print(line, highlight=False)

    def _report(self, pending: _Pending | None) -> None:
        if pending is None:
            return
        step, metrics, known = pending
        loss, skipped = float(metrics["loss"]), int(metrics["skipped"])  # waits for the step
        self._watch.step()
        self._count_skipped(step, skipped)
        if math.isfinite(loss):
            smooth = loss if self._smooth is None else self._smooth
            self._smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        if self._smooth is not None:
            self._show(step, self._smooth)
        last = step == self._config.steps
        if step % self._config.log_every == 0 or last or "held_out_bits_per_byte" in known:
            record = self._record(step, loss, skipped, metrics) | known | self._watch.readings()
            for tracker in self._trackers:
                tracker.write(record)
        limit = self._config.skip_limit
        if self.skipped_in_a_row >= limit:
            raise Diverged(
                f"step {step}: loss or gradient was not finite in {limit} steps in a row, so the "
                "run ends here; its last checkpoint is from before or has the parameters from "
                "before: lower the learning rate, look at the data, or raise --skip-limit"
            )

    def _record(self, step: int, loss: float, skipped: int, metrics: Metrics) -> dict[str, Any]:
        record: dict[str, Any] = {"step": step, "loss": loss}
        if self._bytes_per_token is not None:
            record["bits_per_byte"] = bits_per_byte(loss, bytes_per_token=self._bytes_per_token)
        return record | {
            "grad_norm": float(metrics["grad_norm"]),
            "param_norm": float(metrics["param_norm"]),
            "learning_rate": float(metrics["learning_rate"]),
            "skipped": skipped,
            "tokens": step * self._config.batch_size * self._config.row_length,
            "padding": float(metrics["padding"]),
        }

    def _count_skipped(self, step: int, skipped: int) -> None:
        before, self._skipped = self._skipped, skipped
        if skipped > before:
            self.skipped_in_a_row += 1
            self.say(f"step {step:,}: loss or gradient is not finite; step skipped")
        else:
            self.skipped_in_a_row = 0

    def _show(self, step: int, smooth: float) -> None:
        shown = f"mean loss {smooth:.3f}"
        if self._bytes_per_token is not None:
            bits = bits_per_byte(smooth, bytes_per_token=self._bytes_per_token)
            shown += f"  {bits:.3f} bits/byte"
        if (rate := self._watch.tokens_per_second) is not None:
            shown += f"  {rate:,.0f} tokens/s"
        self._bar.update(self._task, completed=step, shown=shown)
