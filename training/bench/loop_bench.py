# SPDX-License-Identifier: Apache-2.0
"""What the training loop costs over the bare step.

    python -m training.bench.loop_bench [--preset demo] [--steps 300]      two minutes

`loop.train` as it is, with its batches, progress bar, TensorBoard and a record every ten steps; but
after every ten of its steps it stands still while the same compiled step runs ten times on a batch
that lies there already, dispatched ahead in the same way. So what the machine does meanwhile meets
both alike. Each such pair gives the ratio of two medians; the number is the median of those.
Expected: under 2%. Numbers in docs/performance.md.
"""

import contextlib
import dataclasses
import io
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kernels.measure.command import options
from recurrentgemma.memory import keep_freed_memory
from training import build, loop
from training.launch import Launch
from training.named_runs import run_named
from training.step import make_train_step

BLOCK = 10  # steps of one kind in a row
FIRST = 2  # blocks that warm up


class Interleaved:
    """make_train_step, whose step also runs bare ones; `pairs` are seconds of a step in the loop
    and bare."""

    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []
        self._called: list[float] = []
        self._batch: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        compiled = make_train_step(*args, **options)

        def step(train_state: Any, batch: Any) -> Any:
            self._called.append(time.perf_counter())
            stepped = compiled(train_state, batch)
            if len(self._called) == BLOCK + 1:
                jax.block_until_ready(stepped)
                in_loop = _median_gap(self._called)
                self._batch = jax.device_put(batch)
                self.pairs.append((in_loop, self._bare(compiled, stepped[0])))
                self._called.clear()
            return stepped

        return step

    def _bare(self, compiled: Any, train_state: Any) -> float:
        state, before, called = jax.tree.map(jnp.copy, train_state), None, []
        for _ in range(BLOCK + 1):
            called.append(time.perf_counter())
            state, metrics = compiled(state, self._batch)
            if before is not None:
                before["loss"].block_until_ready()
            before = metrics
        jax.block_until_ready(state)
        return _median_gap(called)


def _median_gap(times: list[float]) -> float:
    return statistics.median(b - a for a, b in itertools.pairwise(times))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    keep_freed_memory()
    never = arguments.steps + 1
    config = dataclasses.replace(
        run_named(arguments.preset), steps=arguments.steps, eval_every=never, save_every=never
    )
    both = Interleaved()
    build.make_train_step = both
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        loop.train(config, Path(folder) / "run", Launch(devices=1))
    pairs = both.pairs[FIRST:]
    ratios = sorted(a / b for a, b in pairs)
    loops, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    print(
        f"{arguments.preset}: {1e3 * loops:.1f} ms in the loop, {1e3 * bare:.1f} bare, "
        f"{100 * (statistics.median(ratios) - 1):+.1f}% (quartiles {100 * (low - 1):+.1f} to "
        f"{100 * (high - 1):+.1f}, {len(pairs)} pairs)"
    )


if __name__ == "__main__":
    main()
