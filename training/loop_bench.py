# SPDX-License-Identifier: Apache-2.0
"""What the training loop costs over the bare step.

    python -m training.loop_bench [--preset demo] [--steps 120] [--rounds 5]      five minutes

In one process, in turns: `loop.train`, with its batches, progress bar, TensorBoard and a record
every ten steps, from its third step on; and the same compiled step on one batch that lies there
already, the next step dispatched before the result of the one before is read. Both start from the
same parameters. Expected: under 2%. Numbers in docs/performance.md.
"""

import argparse
import contextlib
import dataclasses
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from recurrentgemma.griffin import Griffin
from recurrentgemma.memory import keep_freed_memory
from training import loop
from training.configs import TrainConfig, run_named
from training.data import Batches
from training.inputs import open_inputs
from training.launch import Launch
from training.optim import learning_rate_schedule, make_optimizer
from training.step import init_train_state, make_train_step

FIRST = 3  # steps before, which compile and warm up, are not timed


class Timed:
    """make_train_step, with the time of each call of what it makes. It compiles only once."""

    def __init__(self) -> None:
        self.called: list[float] = []
        self._step: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._step = self._step or make_train_step(*args, **options)
        self.called.clear()

        def step(train_state: Any, batch: Any) -> Any:
            self.called.append(time.perf_counter())
            return self._step(train_state, batch)

        return step

    def seconds(self) -> float:
        """A step, on average."""
        return (self.called[-1] - self.called[FIRST]) / (len(self.called) - 1 - FIRST)


def in_loop(config: TrainConfig, timed: Timed) -> float:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        loop.train(config, Path(folder) / "run", Launch(devices=1))
    return timed.seconds()


def bare(config: TrainConfig, timed: Timed) -> float:
    """A step of the loop that does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = open_inputs(config, Path(folder))
    batches = Batches(
        inputs.mixture, batch_size=config.batch_size, row_length=config.row_length, seed=0
    )
    batch = jax.device_put(next(batches))
    batches.close()
    tx = make_optimizer(config.optimizer, steps=config.steps)
    graphdef, params = nnx.split(Griffin(config.model, rngs=nnx.Rngs(config.seed)), nnx.Param)
    schedule = learning_rate_schedule(config.optimizer, config.steps)
    step = timed(graphdef, tx, schedule=schedule)
    state, before = init_train_state(params, tx), None
    for _ in range(config.steps):
        state, metrics = step(state, batch)
        if before is not None:
            before["loss"].block_until_ready()
        before = metrics
    jax.block_until_ready(state)
    return timed.seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    never = arguments.steps + 1
    config = dataclasses.replace(
        run_named(arguments.preset), steps=arguments.steps, eval_every=never, save_every=never
    )
    timed = Timed()
    loop.make_train_step = timed
    ratios = []
    for number in range(arguments.rounds):
        pair = (in_loop(config, timed), bare(config, timed))
        ratios.append(pair[0] / pair[1])
        print(
            f"round {number}: loop {1e3 * pair[0]:.2f} ms, bare {1e3 * pair[1]:.2f} ms", flush=True
        )
    print(f"the loop takes {100 * (statistics.median(ratios) - 1):+.2f}% (median of the rounds)")


if __name__ == "__main__":
    main()
