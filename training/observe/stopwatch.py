# SPDX-License-Identifier: Apache-2.0
"""Where the wall time of a run goes: into steps, or into compiling, waiting, scoring and saving."""

import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import flops_per_token
from training.observe.chips import peak_flops

Item = TypeVar("Item")
RECENT = 100  # steps whose median says how long one takes


class Stopwatch:
    """Told of each step when its result is there, and of each interruption.

    devices: that compute, of all processes. clock: seconds.
    """

    def __init__(
        self,
        config: GriffinConfig,
        *,
        tokens_per_step: int,
        row_length: int,
        devices: Sequence[Any],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock, self._tokens = clock, tokens_per_step
        self._flops = flops_per_token(config, row_length)["training"]
        peaks = [peak_flops(device) for device in devices]
        self._peak = None if None in peaks else sum(peak for peak in peaks if peak is not None)
        self._started = clock()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._last: float | None = None  # when the step before was there
        self._in_steps, self._timed, self._steps, self._waited = 0.0, 0, 0, 0.0

    def step(self) -> None:
        """The result of one more step is there."""
        now = self._clock()
        self._steps += 1
        if self._last is not None:
            self._recent.append(now - self._last)
            self._in_steps += now - self._last
            self._timed += 1
        self._last = now

    def interrupted(self) -> None:
        """Something else than a step takes time from here on, until the next step is there."""
        self._last = None

    def waiting(self, get: Callable[[], Item]) -> Item:
        """get(), a batch, for which the loop stands still."""
        since = self._clock()
        item = get()
        self._waited += self._clock() - since
        return item

    @property
    def tokens_per_second(self) -> float | None:
        """By the median of the last steps; None before two have followed each other."""
        return self._tokens / statistics.median(self._recent) if self._recent else None

    def readings(self) -> dict[str, float | None]:
        """For metrics.jsonl.

        tokens_per_second; mfu (model FLOP/s, nothing recomputed counted, over the devices' bfloat16
        peak; None where that is not known); goodput (the share of the wall time since the start
        that steps took: those that followed an interruption count as long as the others on
        average); data_wait (the share of it that the loop waited for batches); memory_bytes (the
        most that a device of this process held; without an accelerator, that the process did).
        """
        rate, wall = self.tokens_per_second, self._clock() - self._started
        mean = self._in_steps / self._timed if self._timed else 0.0
        known = rate is not None and self._peak
        return {
            "tokens_per_second": rate,
            "mfu": rate * self._flops / self._peak if known else None,  # type: ignore[operator]
            "goodput": self._steps * mean / wall if self._timed else None,
            "data_wait": self._waited / wall,
            "memory_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """Bytes: see Stopwatch.readings."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    known = [int(found["peak_bytes_in_use"]) for found in stats if found]
    if known:
        return max(known)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used
