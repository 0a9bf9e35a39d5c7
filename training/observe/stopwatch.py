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

from training.observe.chips import peak_flops

Item = TypeVar("Item")
RECENT = 100  # steps whose median says how long one takes


class Stopwatch:
    """Told of each step when its result is there, and of each interruption.

    items_per_step: how many tokens, images or frames, as `unit` says, a step goes through.
    flops_per_step: of the model alone, where they are known. devices: that compute, of all
    processes. clock: seconds.
    """

    def __init__(
        self,
        *,
        items_per_step: int,
        unit: str = "tokens",
        flops_per_step: float | None = None,
        devices: Sequence[Any] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock, self._items, self.unit = clock, items_per_step, unit
        self._flops = flops_per_step
        peaks = [peak_flops(device) for device in devices]
        self._peak = None if None in peaks else sum(peak for peak in peaks if peak is not None)
        self._started = clock()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._last: float | None = None  # when the step before was there
        self._idle_since = self._started  # or busy with something else, unless a step was there
        self._longest: list[float] = []  # that each step after an interruption can have taken
        self._in_steps, self._timed, self._waited = 0.0, 0, 0.0

    def step(self) -> None:
        """The result of one more step is there."""
        now = self._clock()
        if self._last is None:
            self._longest.append(now - self._idle_since)
        else:
            self._recent.append(now - self._last)
            self._in_steps += now - self._last
            self._timed += 1
        self._last = now

    def interrupted(self) -> None:
        """Something else than a step takes time from here on, until the next step is there."""
        if self._last is not None:
            self._last, self._idle_since = None, self._clock()

    def waiting(self, get: Callable[[], Item]) -> Item:
        """get(), a batch, for which the loop stands still."""
        since = self._clock()
        item = get()
        self._waited += self._clock() - since
        return item

    @property
    def items_per_second(self) -> float | None:
        """By the median of the last steps; None before two have followed each other."""
        return self._items / statistics.median(self._recent) if self._recent else None

    def readings(self) -> dict[str, float | None]:
        """For metrics.jsonl.

        tokens_per_second, or of another unit; mfu (model FLOP/s, nothing recomputed counted, over
        the devices' bfloat16 peak; None where that is not known); goodput (the share of the wall
        time since the start that steps took: those that followed an interruption count as long as
        the others on average, and no longer than they can have taken); data_wait (the share of it
        that the loop waited for batches); memory_bytes (the most that a device of this process
        held; without an accelerator, that the process did).
        """
        rate, wall = self.items_per_second, self._clock() - self._started
        mean = self._in_steps / self._timed if self._timed else 0.0
        in_steps = self._in_steps + sum(min(mean, longest) for longest in self._longest)
        mfu = None
        if rate is not None and self._flops is not None and self._peak:
            mfu = rate * self._flops / self._items / self._peak
        return {
            f"{self.unit}_per_second": rate,
            "mfu": mfu,
            "goodput": in_steps / wall if self._timed else None,
            "data_wait": self._waited / wall,
            "memory_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """Bytes: see Stopwatch.readings."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    known = [int(device["peak_bytes_in_use"]) for device in stats if device]
    if known:
        return max(known)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used
