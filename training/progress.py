# SPDX-License-Identifier: Apache-2.0
"""What a run shows and records while it trains: the progress bar and metrics.jsonl."""

import math
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from training.configs import TrainConfig
from training.metrics import MetricsLog, bits_per_byte
from training.step import Metrics

SMOOTHING = 0.95  # of the bar's mean loss; metrics.jsonl has the loss of the step itself


class Progress:
    """Reports each step one step late, so that reading its metrics does not hold up the next one.

    A line of metrics.jsonl has step, loss (nats per token), bits_per_byte (of the training text, by
    its mean bytes per token), grad_norm, skipped, tokens (seen so far), tokens_per_second, and at
    evaluations held_out_bits_per_byte. All but tokens_per_second are the same in every run of the
    same config.
    """

    def __init__(
        self, log: MetricsLog, config: TrainConfig, *, bytes_per_token: float, step: int
    ) -> None:
        self._log, self._config, self._bytes_per_token = log, config, bytes_per_token
        self._pending: tuple[int, Metrics, dict[str, float]] | None = None
        self._smooth: float | None = None
        self._skipped = 0
        self._rate: float | None = None  # tokens per second, while steps follow each other
        self._clock: tuple[float, int] | None = None  # when the step of that number was reported
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120),
        )
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
        if error is None:
            self.flush()
        self._bar.stop()
        self._log.close()

    def step(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step just dispatched, and report the one before."""
        before, self._pending = self._pending, (step, metrics, {})
        self._report(before)

    def held_out(self, step: int, bits: float) -> None:
        """Add an evaluation to the record of the step just dispatched."""
        assert self._pending is not None
        self._pending[2]["held_out_bits_per_byte"] = bits
        whole = step == self._config.steps
        part = "" if whole else f" (first {self._config.eval_characters:,} characters of each)"
        self._say(f"step {step:,}: held-out text{part}: {bits:.3f} bits per byte")
        self._clock = None

    def flush(self) -> None:
        """Report the last step too, waiting for it."""
        before, self._pending = self._pending, None
        self._report(before)
        self._clock = None

    def _report(self, pending: tuple[int, Metrics, dict[str, float]] | None) -> None:
        if pending is None:
            return
        step, metrics, held_out = pending
        loss, skipped = float(metrics["loss"]), int(metrics["skipped"])  # waits for the step
        if skipped > self._skipped:
            self._say(f"step {step:,}: loss or gradient is not finite; step skipped")
        self._skipped = skipped
        self._time(step)
        if math.isfinite(loss):
            smooth = loss if self._smooth is None else self._smooth
            self._smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        if self._smooth is not None:
            bits = bits_per_byte(self._smooth, bytes_per_token=self._bytes_per_token)
            rate = "" if self._rate is None else f"  {self._rate:,.0f} tokens/s"
            shown = f"mean loss {self._smooth:.3f}  {bits:.3f} bits/byte{rate}"
            self._bar.update(self._task, completed=step, shown=shown)
        if held_out or step % self._config.log_every == 0 or step == self._config.steps:
            tokens = step * self._config.batch_size * self._config.row_length
            record = {
                "step": step,
                "loss": loss,
                "bits_per_byte": bits_per_byte(loss, bytes_per_token=self._bytes_per_token),
                "grad_norm": float(metrics["grad_norm"]),
                "skipped": skipped,
                "tokens": tokens,
                "tokens_per_second": self._rate,
            }
            self._log.write(record | held_out)

    def _time(self, step: int) -> None:
        """Since the last compilation, evaluation or checkpoint, whose own time does not count."""
        now = time.perf_counter()
        if self._clock is None:
            self._clock = (now, step)
            return
        since, first = self._clock
        tokens = (step - first) * self._config.batch_size * self._config.row_length
        self._rate = tokens / (now - since)

    def _say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False)
