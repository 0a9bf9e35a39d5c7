# SPDX-License-Identifier: Apache-2.0
"""Any on-policy agent on environments outside of the program, whose observations may be a tree and
which may remember (ppo_host.py has PPO without a memory, and its metrics).

    loop = HostLoop(agent, make, Schedule(environments=16, rollout=32, steps=100_000))
    for record in loop.records(folder, key, identity):       # a mapping at each measurement

An episode that is cut off ends there, and is worth nothing afterwards. How far a run is is kept in
`folder` about once a minute; when it goes on, its episodes begin anew. Legend: T steps of a
rollout, B environments.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.rl.environments import Stepped
from training.recipes.rl.saved import Saved


class Environments(Protocol):
    """Use as a context."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *unused: object) -> None: ...

    def reset(self) -> Any: ...

    def step(self, action_B: np.ndarray) -> Stepped: ...


class Collected(NamedTuple):
    """A rollout, [T, B, ...]. first: an episode begins with this observation. kept: what the agent
    wants of each step. memory [B, ...]: before the first step; last_...: after the last."""

    observation: Any
    first: Any
    drawn: Any
    kept: Any
    reward: Any
    done: Any
    memory: Any
    last_observation: Any
    last_first: Any
    last_memory: Any


class Agent(Protocol):
    """What the loop asks for."""

    def start(self, key: jax.Array) -> Any:
        """All that is learned."""
        ...

    def remembered(self, count: int) -> Any:
        """Memories of so many environments, newly begun."""
        ...

    def act(
        self, state: Any, memory: Any, observation_B: Any, first_B: np.ndarray, key: jax.Array
    ) -> tuple[Any, Any, Any]:
        """(drawn_B, what is kept of the step, memory)."""
        ...

    def update(
        self, state: Any, collected: Collected, key: jax.Array, number: int
    ) -> tuple[Any, Mapping[str, jax.Array]]:
        """The state after it, and what is logged. number: of the update, from 0."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """steps: of all environments together, at least; measured: how many times, evenly."""

    environments: int
    rollout: int
    steps: int
    measured: int = 10

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise UserError(f"{name}={value}: expected at least 1")

    def check(self, environments: int, rollout: int) -> None:
        """Raises UserError: an agent's choices have other numbers of them."""
        if (environments, rollout) != (self.environments, self.rollout):
            raise UserError(
                f"the schedule has {self.environments} environments and rollouts of "
                f"{self.rollout}, the choices {environments} and {rollout}: give both the same"
            )

    @property
    def between(self) -> int:
        """Updates from one measurement to the next."""
        return -(-self.steps // (self.environments * self.rollout * self.measured))


class HostLoop:
    """See the module. make: environments of a seed."""

    def __init__(self, agent: Agent, make: Callable[[int], Environments], schedule: Schedule):
        self.agent, self.make, self.schedule = agent, make, schedule
        self.state: Any = None
        self.environments: Any = None
        self.outside = 0.0  # seconds in the environments

    def records(
        self,
        folder: Path,
        seed: int,
        identity: Any,
        *,
        begun: Any = None,
        at_measurement: Callable[[Any], Mapping[str, float]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """What is logged at each measurement, means since the one before; those of a run that was
        stopped first. `environment_share`: of the time. begun: in place of the agent's own start.
        """
        schedule, key = self.schedule, jax.random.key(seed)
        saved = Saved(folder, [identity, dataclasses.asdict(schedule), seed])
        start = self.agent.start(jax.random.fold_in(key, 200)) if begun is None else begun
        self.state, values = saved.taken(start)
        records: list[dict[str, Any]] = values.get("records", [])
        yield from records
        with self.make(seed + 7919 * len(records)) as self.environments:
            running = Running(self.environments.reset(), self.agent, schedule.environments)
            while len(records) < schedule.measured:
                began, logs, self.outside = time.monotonic(), [], 0.0
                for number in range(schedule.between):
                    number += len(records) * schedule.between
                    once = jax.random.fold_in(jax.random.fold_in(key, 201), number)
                    collected = self._rollout(running, once)
                    self.state, log = self.agent.update(
                        self.state, collected, jax.random.fold_in(once, 2**31 - 1), number
                    )
                    logs.append(jax.device_get(log))
                seconds = time.monotonic() - began
                steps = schedule.between * schedule.environments * schedule.rollout
                record: dict[str, Any] = {
                    name: float(np.mean([log[name] for log in logs])) for name in logs[0]
                }
                record |= running.finished() | {
                    "steps_per_second": steps / seconds,
                    "environment_share": self.outside / seconds,
                }
                if at_measurement is not None:
                    record |= at_measurement(self.state)
                records.append({k: None if v != v else v for k, v in record.items()})
                yield records[-1]
                saved.keep(self.state, {"records": records})
        saved.remove()

    def _rollout(self, running: "Running", key: jax.Array) -> Collected:
        steps, memory = [], running.memory
        for number in range(self.schedule.rollout):
            observation_B, first_B = running.observation_B, running.first_B
            drawn_B, kept, running.memory = self.agent.act(
                self.state, running.memory, observation_B, first_B, jax.random.fold_in(key, number)
            )
            drawn_B = np.asarray(drawn_B)
            began = time.monotonic()
            stepped = self.environments.step(drawn_B)
            self.outside += time.monotonic() - began
            done_B = stepped.terminated | stepped.truncated
            steps.append((observation_B, first_B, drawn_B, kept, stepped.reward, done_B))
            running.goes_on(stepped, done_B)
        observation, first, drawn, kept, reward, done = jax.tree.map(
            lambda *rows: np.stack(rows), *steps
        )
        return Collected(
            observation,
            first,
            drawn,
            kept,
            reward,
            done,
            memory,
            running.observation_B,
            running.first_B,
            running.memory,
        )


class Running:
    """Where all environments are, and the returns of episodes that are over."""

    def __init__(self, observation_B: Any, agent: Agent, count: int):
        self.observation_B, self.first_B = observation_B, np.ones(count, bool)
        self.memory = agent.remembered(count)
        self.return_B, self.length_B = np.zeros(count), np.zeros(count, np.int64)
        self.ended: list[tuple[float, int]] = []

    def goes_on(self, stepped: Stepped, done_B: np.ndarray) -> None:
        """After a step of each."""
        self.observation_B, self.first_B = stepped.observation, done_B
        self.return_B += stepped.reward
        self.length_B += 1
        for row in np.flatnonzero(done_B):
            self.ended.append((float(self.return_B[row]), int(self.length_B[row])))
            self.return_B[row], self.length_B[row] = 0, 0

    def finished(self) -> dict[str, float]:
        """`return` and `length`, means over `episodes` that ended since this was asked last."""
        ended, self.ended = self.ended, []
        returns, lengths = np.array(ended, float).reshape(-1, 2).T
        nothing = float("nan")
        return {
            "return": float(returns.mean()) if ended else nothing,
            "length": float(lengths.mean()) if ended else nothing,
            "episodes": float(len(ended)),
        }
