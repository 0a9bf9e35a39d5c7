# SPDX-License-Identifier: Apache-2.0
"""How long can an agent remember with each core? A T-maze and bsuite's memory chain, of growing
length; success is the share of episodes with a
positive return, which takes the right turn, or the right bit.

Cores have 64 units: an LSTM 33,000 parameters, a GRU 25,000, a Hawk or Griffin of two blocks about
85,000. A rollout covers at least one episode and a half, so that gradients reach its cue.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from eval.intervals import t_interval
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.memory.tmaze import TMaze
from training.recipes.rl.cores import CoreConfig, CoreKind
from training.recipes.rl.environments import Environment, gymnax_environment
from training.recipes.rl.recurrent_ppo import RecurrentChoices, RecurrentPPO
from training.recipes.rl.saved import Saved

CORES: tuple[CoreKind, ...] = ("hawk", "griffin", "lstm", "gru", "none")
LENGTHS = (8, 32, 128)
Task = Literal["tmaze", "chain"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryArm:
    """steps: of all environments together. measured: how many times, evenly."""

    choices: RecurrentChoices
    task: Task
    length: int
    steps: int = 2_000_000
    measured: int = 20

    @property
    def iterations(self) -> int:
        """Rollouts; a whole number between two measurements."""
        rollout = self.choices.environments * self.choices.rollout
        return -(-self.steps // (rollout * self.measured)) * self.measured

    def environment(self) -> Environment:
        """Of this task and length."""
        if self.task == "tmaze":
            return TMaze(self.length)
        return gymnax_environment("MemoryChain-bsuite", memory_length=self.length)


def memory_arms(
    *, tasks: Sequence[Task], lengths: Sequence[int], steps: int, environments: int = 64
) -> dict[str, MemoryArm]:
    """Every task x length x core."""
    return {
        f"{task}/{length}/{kind}": MemoryArm(
            choices=RecurrentChoices(
                core=CoreConfig(kind=kind),
                environments=environments,
                rollout=max(32, length * 3 // 2),
                rows=environments // 4,
            ),
            task=task,
            length=length,
            steps=steps,
        )
        for task in tasks
        for length in lengths
        for kind in CORES
    }


def measure(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The numbers of each cell, the seeds of an arm as one vmapped program: `success` and `return`
    by measurement, `seconds`."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.choices, []).append(cell)
    for arm, group in groups.items():
        agent = RecurrentPPO(arm.choices, arm.environment())
        iteration = jax.jit(jax.vmap(agent.iteration), donate_argnums=0)
        keys = jnp.stack([jax.random.key(cell.seed) for cell in group])
        saved = Saved(folder, [dataclasses.asdict(arm), [cell.seed for cell in group]])
        state, kept = saved.taken(jax.jit(jax.vmap(agent.start))(keys))
        records, seconds = kept.get("records", []), kept.get("seconds", 0.0)
        between, began = arm.iterations // arm.measured, time.monotonic()
        while len(records) < arm.measured:
            logs = []
            for number in range(len(records) * between, (len(records) + 1) * between):
                step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
                state, log = iteration(state, step_keys)
                logs.append(jax.device_get(log))
            records.append(_record(logs))
            saved.keep(state, {"records": records, "seconds": seconds + time.monotonic() - began})
        seconds += time.monotonic() - began
        for number, cell in enumerate(group):
            yield (
                cell,
                {
                    **{name: [one[name][number] for one in records] for name in records[0]},
                    "seconds": seconds / len(group),
                },
            )
        saved.remove()


def _record(logs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Of each seed: the mean return of all finished episodes, and the share with one above 0, which
    is success; 0 where none has finished."""
    episodes_S = np.sum([log["episodes"] for log in logs], 0)
    record = {}
    for name, logged in (("return", "return"), ("success", "solved")):
        sums_S = np.sum([np.nan_to_num(log[logged]) * log["episodes"] for log in logs], 0)
        record[name] = (sums_S / np.maximum(episodes_S, 1)).tolist()
    return record


def conclude(arms: Arms) -> Findings:
    """Success at the end of each task and length, by core."""
    rows, numbers = {}, {}
    for arm, cells in arms.items():
        task_and_length, core = arm.rsplit("/", 1)
        interval = t_interval(values(cells, "success")[:, -1])
        rows.setdefault(task_and_length, {})[core] = interval
        numbers[arm] = as_numbers(interval)
    words = "; ".join(
        f"{task}: " + ", ".join(f"{core} {one.mean:.2f}" for core, one in of.items())
        for task, of in rows.items()
    )
    return Findings(
        f"success (chance 0.50) after training. {words}.",
        {"success": numbers},
        [findings.interval_table("Success at the end of training", "task and length", rows)],
        {
            f"success_{task.replace('/', '_')}": findings.plot(
                *({core: arms[f"{task}/{core}"] for core in of}, "success"),
                title=f"{task.replace('/', ', length ')}: success of the episodes of a rollout",
                xlabel="measurement",
                ylabel="share that was solved",
            )
            for task, of in rows.items()
        },
    )


MEMORY = Experiment(
    name="cores",
    question="how long can an agent remember with a Hawk, a Griffin, an LSTM, a GRU, or nothing?",
    cost="about 3 CPU hours",
    arms=memory_arms(tasks=("tmaze", "chain"), lengths=LENGTHS, steps=500_000),
    measure_in=measure,
    conclude=conclude,
)
