# SPDX-License-Identifier: Apache-2.0
"""How long a study takes: all arms and seeds as one program, one process a cell, and PyTorch.

    python -m training.recipes.plasticity.speed_bench --torch TORCH/bin/python     3 minutes

The study is that of Adam, with fewer steps: `--arms` arms (numbers alone differ) x `--seeds` seeds
of an MLP on random labels of 5,000 images. One process is timed whole, from its start to its end,
import and compilation included, `--processes` times, and its time is multiplied by the number of
cells; so is PyTorch's (tests/peers/plasticity.py: the same network, batches, optimizer), with one
thread and with two, of which the faster counts.
Expected: see docs/performance.md.
"""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from recurrentgemma.memory import keep_freed_memory

REFERENCE = Path("tests/peers/plasticity.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchArguments:
    arms: int = 4
    seeds: int = 5
    width: int = 64
    """Of both hidden layers."""
    steps: int = 1500
    """A task; there are two."""
    processes: int = 2
    """That are timed for the mean of one."""
    torch: str | None = None
    """A Python with PyTorch."""
    cells_alone: Annotated[int, tyro.conf.arg(name="cells")] = 0
    """Time nothing: compute so many cells as one program, as the bench's own processes do."""


def main(argv: list[str] | None = None) -> None:
    """Print a table, and its numbers as JSON in a last line."""
    arguments = tyro.cli(BenchArguments, description=__doc__, args=argv)
    if arguments.cells_alone:
        compute(arguments, arguments.cells_alone)
        return
    cells = arguments.arms * arguments.seeds
    sizes = [f"--width={arguments.width}", f"--steps={arguments.steps}"]
    ours = [sys.executable, "-m", "training.recipes.plasticity.speed_bench", *sizes]
    seconds = {"one program": timed([*ours, f"--cells={cells}"])}
    one = [timed([*ours, "--cells=1"]) for _ in range(arguments.processes)]
    seconds["one process a cell"] = cells * sum(one) / len(one)
    if arguments.torch is not None:
        for threads in (1, 2):
            command = [arguments.torch, str(REFERENCE), *sizes, f"--threads={threads}"]
            one = [timed(command) for _ in range(arguments.processes)]
            seconds[f"PyTorch, {threads} threads, one process a cell"] = cells * sum(one) / len(one)
    print(f"{cells} cells of 2 x {arguments.steps} steps, width {arguments.width}")
    for name, value in seconds.items():
        print(f"{name:42} {value:8.1f} s  {value / seconds['one program']:5.1f} x")
    print(json.dumps(seconds))


def timed(command: list[str]) -> float:
    """Seconds of a process, which must succeed."""
    started = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - started


def compute(arguments: BenchArguments, count: int) -> None:
    """So many cells, as one program."""
    from training.recipes.experiment import Cell
    from training.recipes.plasticity.learner import Choices
    from training.recipes.plasticity.streams import Stream
    from training.recipes.plasticity.train import StreamArm, train_streams
    from training.recipes.vision.mlp import MLPConfig

    def arm(number: int) -> StreamArm:
        network = MLPConfig(widths=(arguments.width, arguments.width))
        choices = Choices(network=network, eps=10.0 ** (-8 + number))
        return StreamArm(choices=choices, stream=Stream(tasks=2, steps=arguments.steps))

    cells = [
        Cell(f"{number // arguments.seeds}", arm(number // arguments.seeds), number)
        for number in range(count)
    ]
    for cell, numbers in train_streams(cells):
        print(cell.arm, cell.seed, numbers["accuracy"], file=sys.stderr)


if __name__ == "__main__":
    keep_freed_memory()  # as the griffin command does
    main()
