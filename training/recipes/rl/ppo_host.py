# SPDX-License-Identifier: Apache-2.0
"""PPO on environments outside of the program (MuJoCo, Atari): the host steps them, a compiled
program chooses actions, and one more does all epochs of an update.

    run = HostRun(arm, seed=0)
    for record in run.records(folder):           # a mapping at each measurement

A run is kept in `folder` about once a minute, environments included (rl/host_environments.py), and
goes on from there. Legend: T steps, B environments.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from training.recipes.experiment import Cell
from training.recipes.rl.distributions import Distribution
from training.recipes.rl.environments import Stepped
from training.recipes.rl.host_environments import gymnasium_environments
from training.recipes.rl.ppo import PPO, AgentState, Held, PPOArm, Rollout
from training.recipes.rl.ppo_metrics import representation, trust_region
from training.recipes.rl.saved import Saved


class Environments(Protocol):
    """As those of rl/host_environments.py."""

    @property
    def observation_shape(self) -> tuple[int, ...]: ...

    @property
    def policy(self) -> Distribution: ...

    def __enter__(self) -> "Environments": ...

    def __exit__(self, *unused: object) -> None: ...

    def reset(self) -> np.ndarray: ...

    def step(self, action_B: np.ndarray) -> Stepped: ...

    def snapshot(self) -> dict[str, Any]: ...

    def restore(self, kept: dict[str, Any]) -> None: ...


class HostRun:
    """A run of one seed. at_measurement: what else to compute there, of the agent's state. begun:
    the state to begin with, in place of a new one. held: of an update's number, which is traced,
    what it adds to the actor's loss. identity: of what is begun with and held, as far as the arm
    does not say it, so that no other run goes on from this one."""

    def __init__(
        self,
        arm: PPOArm,
        seed: int,
        *,
        make: Callable[..., Environments] = gymnasium_environments,
        at_measurement: Callable[[PPO, AgentState, int], Mapping[str, Any]] | None = None,
        begun: AgentState | None = None,
        held: Callable[[jax.Array], Held] | None = None,
        identity: Any = None,
    ):
        self.arm, self.seed, self.at_measurement = arm, seed, at_measurement
        self.begun, self.held, self.identity = begun, held, identity
        self.environments = make(arm.environment, arm.choices.environments, seed=seed)
        self.agent = PPO(arm.choices, self.environments.observation_shape, self.environments.policy)
        self._act = jax.jit(self._action)
        self._value = jax.jit(self.agent.value)
        self._update, self._metrics = jax.jit(self._updated), jax.jit(self._measured)

    def records(self, folder: Path) -> Iterator[dict[str, Any]]:
        """What is logged at each measurement, means since the one before; those of a run that was
        stopped first."""
        arm = self.arm
        beside = [] if self.identity is None else [self.identity]
        saved = Saved(folder, [dataclasses.asdict(arm), self.seed, *beside])
        key = jax.random.key(self.seed)
        state = self.begun or jax.jit(self.agent.start)(jax.random.fold_in(key, 200))
        with self.environments as environments:
            observation_B = environments.reset()
            (state, observation_B), kept = saved.taken((state, observation_B))
            observation_B, records = np.asarray(observation_B), kept.get("records", [])
            running_B = np.asarray(kept.get("running", np.zeros(arm.choices.environments)))
            if kept:
                environments.restore(kept["environments"])
            yield from records
            between = arm.iterations // arm.measured
            while len(records) < arm.measured:
                began, returns, logs = time.monotonic(), [], []
                for number in range(len(records) * between, (len(records) + 1) * between):
                    once = jax.random.fold_in(jax.random.fold_in(key, 201), number)
                    rollout = self._rollout(state, observation_B, once, running_B, returns)
                    observation_B = rollout.last_observation
                    old, share = state, 1 - number / arm.iterations
                    update_key = jax.random.fold_in(once, 2**31 - 1)
                    state, log = self._update(
                        state, rollout, update_key, jnp.float32(share), jnp.int32(number)
                    )
                    logs.append(jax.device_get(log))
                logs[-1] |= jax.device_get(self._metrics(old, state, rollout))
                seconds = time.monotonic() - began
                records.append(self._record(logs, returns, state, len(records), seconds))
                yield records[-1]
                saved.keep(
                    (state, observation_B),
                    {
                        "records": records,
                        "running": running_B.tolist(),
                        "environments": environments.snapshot(),
                    },
                )
        saved.remove()

    def _record(
        self,
        logs: Sequence[Mapping[str, Any]],
        returns: Sequence[float],
        state: AgentState,
        number: int,
        seconds: float,
    ) -> dict[str, Any]:
        named = {
            name: float(np.mean([log[name] for log in logs if name in log])) for name in logs[-1]
        }
        steps = len(logs) * self.arm.choices.environments * self.arm.choices.rollout
        record: dict[str, Any] = {
            "return": float(np.mean(returns)) if returns else float("nan"),
            "episodes": len(returns),
            "steps_per_second": steps / seconds,
            **named,
        }
        if self.at_measurement is not None:
            record |= self.at_measurement(self.agent, state, number)
        return {name: None if value != value else value for name, value in record.items()}

    def _rollout(
        self,
        state: AgentState,
        observation_B: np.ndarray,
        key: jax.Array,
        running_B: np.ndarray,
        returns: list[float],
    ) -> Rollout:
        """`rollout` steps of every environment; returns of finished episodes are appended."""
        steps, choices = [], self.arm.choices
        for number in range(choices.rollout):
            drawn_B, action_B = jax.device_get(
                self._act(state.actor, observation_B, key, np.int32(number))
            )
            stepped = self.environments.step(action_B)
            done_B, reward_B = stepped.terminated | stepped.truncated, stepped.reward
            running_B += reward_B
            if done_B.any():
                returns.extend(running_B[done_B].tolist())
                running_B[done_B] = 0
                cut_B = stepped.truncated & ~stepped.terminated
                if cut_B.any() and not choices.truncation_ends:
                    final_B = np.asarray(self._value(state.critic, stepped.final_observation))
                    reward_B = reward_B + np.float32(choices.discount) * cut_B * final_B
            steps.append((observation_B, drawn_B, reward_B, done_B))
            observation_B = stepped.observation
        columns = [np.stack(column) for column in zip(*steps, strict=True)]
        return Rollout(columns[0], columns[1], columns[2], columns[3], observation_B)

    def _action(
        self, actor: Any, observation_B: jax.Array, key: jax.Array, number: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        outputs = self.agent.judge(actor, observation_B).outputs
        drawn_B = self.agent.policy.sample(outputs, jax.random.fold_in(key, number))
        return drawn_B, self.agent.policy.action(drawn_B)

    def _updated(
        self,
        state: AgentState,
        rollout: Rollout,
        key: jax.Array,
        share: jax.Array,
        number: jax.Array,
    ) -> tuple[AgentState, dict[str, jax.Array]]:
        held = None if self.held is None else self.held(number)
        return self.agent.update(state, rollout, key, share, held)

    def _measured(self, old: AgentState, new: AgentState, rollout: Rollout) -> dict[str, jax.Array]:
        return {
            **representation(self.agent, old, rollout),
            **trust_region(self.agent, old, new, rollout),
        }


def train_host(
    cells: Sequence[Cell], folder: Path, **options: Any
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The numbers of each cell of PPOArm, one after another: `measured`, by name at each
    measurement; `steps`. options: HostRun's."""
    for cell in cells:
        arm: PPOArm = cell.choices
        records = []
        for record in HostRun(arm, cell.seed, **options).records(folder):
            records.append(record)
            print(
                f"  {cell.arm}, seed {cell.seed}: {len(records)} of {arm.measured}  "
                f"return {record['return'] or 0:.1f}  {record['steps_per_second']:,.0f} steps/s",
                file=sys.stderr,
                flush=True,
            )
        curves = {name: [record[name] for record in records] for name in records[0]}
        rollout = arm.choices.environments * arm.choices.rollout
        yield cell, {"measured": curves, "steps": arm.iterations * rollout}
