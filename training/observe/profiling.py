# SPDX-License-Identifier: Apache-2.0
"""A trace of a few steps, for XProf: `pip install xprof`, then `xprof --logdir RUN_DIR/profile`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"
WARM_UP = 2  # steps before it begins: the first compiles, the second may wait for it


class Trace:
    """Of `steps` steps, into RUN_DIR/profile; none if that is 0."""

    def __init__(self, run_dir: Path, steps: int) -> None:
        self.folder, self._steps = run_dir / FOLDER, steps
        self._seen, self._is_running = 0, False

    def step(self, result: Any, pause: Callable[[], None]) -> bool:
        """Tell of each step after it was dispatched. Returns whether it has written the trace.
        Beginning and writing take their time: before, it waits for `result` and calls `pause`."""
        self._seen += 1
        if self._steps and self._seen == WARM_UP:
            jax.block_until_ready(result)
            pause()
            jax.profiler.start_trace(str(self.folder))
            self._is_running = True
        elif self._is_running and self._seen == WARM_UP + self._steps:
            jax.block_until_ready(result)
            pause()
            self._write()
            return True
        return False

    def close(self, result: Any = None) -> None:
        """Write what there is, if it is being recorded."""
        if self._is_running:
            jax.block_until_ready(result)
            self._write()

    def _write(self) -> None:
        self._is_running = False
        jax.profiler.stop_trace()
