# SPDX-License-Identifier: Apache-2.0
"""PPO beside Stable-Baselines3's (tests/peers/ppo.py) with the same networks and settings.

    python -m training.recipes.rl.speed_bench hopper --peer SB3/bin/python
    python -m training.recipes.rl.speed_bench minatar --peer SB3/bin/python --vmapped 16
    python -m training.recipes.rl.speed_bench hopper --peer SB3/bin/python --steps 200_000 --seeds 5

Environment steps/s: the two take turns, a process a run, one after the other. Ours are counted
after the first quarter, in which a run compiles, and with all of it; of `--vmapped` seeds all steps
count. With several --seeds their last returns are compared, too: the means over seeds with 95%
intervals (Student's t). Ours bootstraps where an episode is cut off, as Stable-Baselines3 does.
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from recurrentgemma.errors import UserError
from recurrentgemma.memory import keep_freed_memory
from training.recipes.peers import last_line, ratio

REFERENCE = Path("tests/peers/ppo.py")
MEASURED = 20  # times that Hopper's is looked at
LAST = 0.1  # of a run, whose returns are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedArguments:
    task: Annotated[Literal["hopper", "minatar"], tyro.conf.Positional]
    peer: str | None = None
    """A Python with Stable-Baselines3."""
    steps: int = 40_960
    """Of the environments of a run."""
    seeds: int = 3
    """Runs of each side."""
    vmapped: int = 1
    """Seeds of MinAtar in one of our programs."""
    threads: int = 1
    """Of PyTorch."""
    ours: int | None = None
    """Time nothing: train this seed, as the bench's own processes do."""


def main(argv: list[str] | None = None) -> None:
    """Print a line a run, a table, and its numbers as JSON in a last line."""
    arguments = tyro.cli(SpeedArguments, description=__doc__, args=argv)
    if arguments.task == "hopper" and arguments.vmapped > 1:
        raise UserError("--vmapped with hopper: its environments are not of the program")
    if arguments.ours is not None:
        print(json.dumps(train(arguments, arguments.ours)))
        return
    sizes = [arguments.task, f"--steps={arguments.steps}"]
    module = "training.recipes.rl.speed_bench"
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "Stable-Baselines3": []}
    for seed in range(arguments.seeds):
        mine = [*sizes, f"--vmapped={arguments.vmapped}", f"--ours={seed}"]
        commands = {"ours": [sys.executable, "-m", module, *mine]}
        if arguments.peer is not None:
            options = [f"--seed={seed}", f"--threads={arguments.threads}"]
            commands["Stable-Baselines3"] = [arguments.peer, str(REFERENCE), *sizes, *options]
        for name, command in commands.items():
            runs[name].append(last_line(command))
            print(f"{name}, seed {seed}: {runs[name][-1]['steps_per_second']:,.0f} steps/s")
    numbers = {name: summary(of_name) for name, of_name in runs.items() if of_name}
    for name, of_name in numbers.items():
        print(f"{name:18} " + "  ".join(f"{key} {value}" for key, value in of_name.items()))
    if runs["Stable-Baselines3"]:
        print(ratio(runs["ours"], runs["Stable-Baselines3"]))
    print(json.dumps(numbers))


def summary(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Of the runs of one side, in words."""
    from eval.intervals import t_interval

    rates = [run["steps_per_second"] for run in runs]
    words = {"steps/s": f"{np.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"}
    whole = [run["whole"] for run in runs if "whole" in run]
    if whole:
        words["compilation included"] = f"{np.median(whole):,.0f}"
    last = np.array([np.mean(run["returns"]) for run in runs if run["returns"]])
    if len(last) > 1:
        mean = t_interval(last)
        words["last returns"] = f"{mean.mean:.1f} ({mean.low:.1f} to {mean.high:.1f})"
    return words


def train(arguments: SpeedArguments, seed: int) -> dict[str, Any]:
    """A run of ours: steps_per_second, the same with compilation (whole), the last returns."""
    from training.recipes.pfo.arms import MINATAR_CHOICES, mujoco
    from training.recipes.rl.ppo import PPOArm

    if arguments.task == "hopper":
        environment, choices = "Hopper-v5", mujoco()
    else:
        environment, choices = "Breakout-MinAtar", MINATAR_CHOICES
    choices = dataclasses.replace(choices, truncation_ends=False)
    arm = PPOArm(choices=choices, environment=environment, steps=arguments.steps, measured=MEASURED)
    if arguments.task == "hopper":
        with tempfile.TemporaryDirectory() as folder:
            return hopper(arm, seed, Path(folder))
    return minatar(arm, seed, arguments.vmapped)


def hopper(arm: Any, seed: int, folder: Path) -> dict[str, Any]:
    """Of one seed; the host steps its environments."""
    from training.recipes.rl.ppo_host import HostRun

    began, times, returns = time.monotonic(), [], []
    for record in HostRun(arm, seed).records(folder):
        times.append(time.monotonic())
        returns.append(record["return"])
    steps = arm.iterations * arm.choices.environments * arm.choices.rollout
    last = returns[round(-LAST * len(returns)) :]
    return rates(began, times, steps) | {"returns": [value for value in last if value is not None]}


def minatar(arm: Any, seed: int, count: int) -> dict[str, Any]:
    """Of so many seeds at once, from `seed * count` on; the environments are of the program."""
    import jax
    import jax.numpy as jnp

    from training.recipes.experiment import Cell
    from training.recipes.rl.environments import gymnax_environment
    from training.recipes.rl.ppo_train import Run
    from training.recipes.side_by_side import batched, numbers_of, seeds_of, split

    began, times, returns = time.monotonic(), [], []
    cells = [Cell("", arm, seed * count + number) for number in range(count)]
    numbers, seeds = numbers_of(cells), seeds_of(cells)
    run = Run(split(arm)[0], gymnax_environment(arm.environment))
    state = jax.jit(jax.vmap(run.start))(numbers, seeds)
    iteration = jax.jit(
        batched(lambda *given: run.iteration(*given)[::2], (0, 0, 0, None), large=True),
        donate_argnums=2,
    )
    for number in range(arm.iterations):
        state, log = iteration(numbers, seeds, state, jnp.int32(number))
        log = jax.device_get(log)
        times.append(time.monotonic())
        if number >= arm.iterations * (1 - LAST):
            returns += log["return"][log["episodes"] > 0].tolist()
    steps = arm.iterations * arm.choices.environments * arm.choices.rollout * count
    return rates(began, times, steps) | {"returns": returns}


def rates(began: float, times: list[float], steps: int) -> dict[str, float]:
    """Steps/s without the first quarter of the measurements, and of the whole run."""
    first = len(times) // 4
    share = (len(times) - 1 - first) / len(times)
    return {
        "steps_per_second": steps * share / (times[-1] - times[first]),
        "whole": steps / (times[-1] - began),
    }


if __name__ == "__main__":
    keep_freed_memory()  # as the griffin command does
    main()
