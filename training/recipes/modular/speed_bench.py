# SPDX-License-Identifier: Apache-2.0
"""Outer steps/s with tasks as a vmapped axis, beside a PyTorch loop over tasks of the same setting.

    python -m training.recipes.modular.speed_bench --peer TORCH/bin/python       a minute or two

The setting is a linear hypernetwork on a hyperteacher of half the paper's width: ten AdamW steps on
each task, differentiated through. The two take turns, a process a run (tests/peers/modular.py).
Steps are counted after the first quarter, in which a run compiles.
Expected: see README.md.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from recurrentgemma.memory import keep_freed_memory
from training.recipes.peers import last_line, ratio

REFERENCE = Path("tests/peers/modular.py")
STRETCHES = 8  # of a run, the first two of which are not counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedArguments:
    peer: str | None = None
    """A Python with PyTorch."""
    tasks: int = 16
    """Of an outer step."""
    shots: int = 64
    """Points that a task is adapted to, and as many that are scored."""
    width: int = 32
    """Of the three hidden layers that are written."""
    templates: int = 16
    steps: int = 80
    """Of a run of ours."""
    peer_steps: int = 16
    """Of a run of the loop's."""
    rounds: int = 3
    threads: int = 1
    """Of PyTorch."""
    alone: bool = False
    """Time nothing: run ours, as the bench's own processes do."""


def main(argv: list[str] | None = None) -> None:
    """Print a line a run, the ratio, and the numbers as JSON in a last line."""
    arguments = tyro.cli(SpeedArguments, description=__doc__, args=argv)
    if arguments.alone:
        print(json.dumps(measured(arguments)))
        return
    sizes = [
        f"--{name}={getattr(arguments, name)}" for name in ("tasks", "shots", "width", "templates")
    ]
    module = "training.recipes.modular.speed_bench"
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "PyTorch": []}
    for number in range(arguments.rounds):
        mine = [*sizes, f"--steps={arguments.steps}", "--alone"]
        commands = {"ours": [sys.executable, "-m", module, *mine]}
        if arguments.peer is not None:
            theirs = [*sizes, f"--steps={arguments.peer_steps}", f"--threads={arguments.threads}"]
            commands["PyTorch"] = [arguments.peer, str(REFERENCE), *theirs]
        for name, command in commands.items():
            runs[name].append(last_line(command))
            rate = runs[name][-1]["steps_per_second"]
            print(f"{name}, round {number}: {rate:,.2f} steps/s", flush=True)
    numbers = {
        name: {"steps_per_second": [run["steps_per_second"] for run in of_name]}
        for name, of_name in runs.items()
        if of_name
    }
    if runs["PyTorch"]:
        print(ratio(runs["ours"], runs["PyTorch"]))
    print(json.dumps(numbers))


def measured(arguments: SpeedArguments) -> dict[str, float]:
    """Outer steps/s of ours, without the first quarter, and the last loss."""
    import jax
    import jax.numpy as jnp

    from training.recipes.modular.few_shot import Run
    from training.recipes.modular.hyperteacher import HyperTeacher
    from training.recipes.modular.settings import hypernetwork
    from training.recipes.modular.support import Support

    family = HyperTeacher(
        support=Support(kind="random", modules=4, hot=2, layers=2),
        width=16,
        shots=arguments.shots,
        queries=arguments.shots,
        moments=128,
    )
    setting = hypernetwork(arguments.width, 3, arguments.templates, 0.3, 3e-3, clip=1.0)
    steps = max(1, arguments.steps // STRETCHES)
    run = Run(setting.arm(family, steps=steps * STRETCHES, tasks=arguments.tasks,
                          measured=STRETCHES))  # fmt: skip
    world, state = run.start({}, jnp.uint32(0))
    codes = jnp.asarray(family.prepare(0)["codes"]["train"])
    stretch = jax.jit(run.stretch, donate_argnums=2)
    times, loss = [], jnp.zeros(())
    for _ in range(STRETCHES):
        state, loss = jax.block_until_ready(stretch(world, codes, state))
        times.append(time.monotonic())
    first = STRETCHES // 4 - 1
    rate = steps * (STRETCHES - 1 - first) / (times[-1] - times[first])
    return {"steps_per_second": rate, "loss": float(loss)}


if __name__ == "__main__":
    keep_freed_memory()  # as the griffin command does
    main()
