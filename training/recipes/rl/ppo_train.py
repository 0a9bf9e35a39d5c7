# SPDX-License-Identifier: Apache-2.0
"""PPO on environments that run inside of the program: one iteration is a rollout and the epochs on
it; arms that differ in numbers alone and their seeds are one vmapped program.

    for cell, numbers in train_ppo(cells, folder):           # cells of PPOArm
        numbers["measured"]["pca_rank"]                      # by measurement

A run in training is kept in `folder` about once a minute, and goes on from there with the same
numbers to the bit. Legend: B environments, T steps, C cells.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from training.finetuning.advantages import cut_off
from training.recipes.experiment import Cell, as_json
from training.recipes.rl.environments import (
    Environment,
    Episodes,
    counted,
    emptied,
    gymnax_environment,
    no_episodes,
)
from training.recipes.rl.ppo import PPO, AgentState, PPOArm, Rollout
from training.recipes.rl.ppo_metrics import representation, trust_region
from training.recipes.rl.saved import Saved
from training.recipes.side_by_side import batched, join, numbers_of, programs, seeds_of, split
from training.recipes.vision.network import has_convolutions


class RunState(NamedTuple):
    """All that a run goes on with."""

    agent: AgentState
    environments: Any
    observation_B: jax.Array
    episodes: Episodes


class Run:
    """The pure functions of arms of one structure: of one cell, its numbers traced."""

    def __init__(self, structure: PPOArm, environment: Environment):
        self.structure, self.environment = structure, environment

    def agent(self, numbers: Any) -> PPO:
        """Of a cell's numbers."""
        choices = join(self.structure, numbers).choices
        return PPO(choices, self.environment.observation_shape, self.environment.policy)

    def start(self, numbers: Any, seed: jax.Array) -> RunState:
        """Newly initialised."""
        count = self.structure.choices.environments
        keys = jax.random.split(_key(seed, 1), count)
        observation_B, environments = jax.vmap(self.environment.reset)(keys)
        agent = self.agent(numbers).start(_key(seed, 0))
        return RunState(agent, environments, observation_B, no_episodes(count))

    def iteration(
        self, numbers: Any, seed: jax.Array, state: RunState, number: jax.Array
    ) -> tuple[RunState, Rollout, dict[str, jax.Array]]:
        """The `number`th rollout and the epochs on it; what is logged of both."""
        agent = self.agent(numbers)
        rollout_key, update_key = jax.random.split(jax.random.fold_in(_key(seed, 2), number))
        state, rollout = self.rollout(agent, state, rollout_key)
        share = 1 - number.astype(jnp.float32) / self.structure.iterations
        new, losses = agent.update(state.agent, rollout, update_key, share)
        episodes, finished = emptied(state.episodes)
        return state._replace(agent=new, episodes=episodes), rollout, {**finished, **losses}

    def metrics(
        self, numbers: Any, old: AgentState, new: AgentState, rollout: Rollout
    ) -> dict[str, jax.Array]:
        """Of an iteration: the agent before and after its epochs."""
        agent = self.agent(numbers)
        return {**representation(agent, old, rollout), **trust_region(agent, old, new, rollout)}

    def rollout(self, agent: PPO, state: RunState, key: jax.Array) -> tuple[RunState, Rollout]:
        """`rollout` steps of every environment, with the policy as it is."""
        choices = agent.choices

        def step(carried: RunState, one_key: jax.Array) -> tuple[RunState, tuple[jax.Array, ...]]:
            act_key, step_key = jax.random.split(one_key)
            drawn_B = agent.act(carried.agent, carried.observation_B, act_key)
            keys = jax.random.split(step_key, choices.environments)
            environments, stepped = jax.vmap(self.environment.step)(
                keys, carried.environments, agent.policy.action(drawn_B)
            )
            done_B, reward_B = stepped.terminated | stepped.truncated, stepped.reward
            if not choices.truncation_ends:
                final_B = agent.value(carried.agent.critic, stepped.final_observation)
                cut_B = stepped.truncated & ~stepped.terminated
                reward_B = cut_off(reward_B, cut_B, final_B, discount=choices.discount)
            episodes = counted(carried.episodes, stepped.reward, done_B)
            after = RunState(carried.agent, environments, stepped.observation, episodes)
            return after, (carried.observation_B, drawn_B, reward_B, done_B)

        keys = jax.random.split(key, choices.rollout)
        state, (observation, drawn, reward, done) = jax.lax.scan(step, state, keys)
        return state, Rollout(observation, drawn, reward, done, state.observation_B)


def train_ppo(
    cells: Sequence[Cell],
    folder: Path,
    *,
    make: Callable[[str], Environment] = gymnax_environment,
    at_measurement: Callable[[Run, Any, jax.Array, RunState], Mapping[str, Any]] | None = None,
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The numbers of each cell of PPOArm: `measured`, the metrics by name at each measurement
    (means since the one before, of what every rollout logs); `steps`; `seconds`.

    folder: where a run in training is kept. at_measurement: what else to compute there, of
    one cell: (run, its numbers, its seed, its state) -> numbers by name.
    """
    for group in programs(cells):
        arm: PPOArm = group[0].choices
        run = Run(split(arm)[0], make(arm.environment))
        numbers, seeds = numbers_of(group), seeds_of(group)
        saved = Saved(folder, [(cell.arm, dataclasses.asdict(cell.choices), cell.seed)
                               for cell in group])  # fmt: skip
        large = has_convolutions(arm.choices.actor)
        iteration = batched(run.iteration, (0, 0, 0, None), large=large)
        iteration = jax.jit(iteration, donate_argnums=2)
        metrics = jax.jit(jax.vmap(run.metrics))
        more = jax.jit(jax.vmap(partial(at_measurement, run))) if at_measurement else None
        state = jax.jit(jax.vmap(run.start))(numbers, seeds)
        state, kept = saved.taken(state)
        records, seconds = kept.get("records", []), kept.get("seconds", 0.0)
        between = arm.iterations // arm.measured
        began = time.monotonic()
        while len(records) < arm.measured:
            logs = []
            last = (len(records) + 1) * between - 1
            for number in range(len(records) * between, last + 1):
                old = jax.tree.map(jnp.copy, state.agent) if number == last else None
                state, rollout, log = iteration(numbers, seeds, state, jnp.int32(number))
                # Programs that wait in a queue have been seen to stop for ever on two cores.
                logs.append(jax.block_until_ready(log))
            logs[-1] |= metrics(numbers, old, state.agent, rollout)
            record = _averaged(jax.device_get(logs))
            if more is not None:
                record |= as_json(jax.device_get(more(numbers, seeds, state)))
            records.append(record)
            saved.keep(state, {"records": records, "seconds": seconds + time.monotonic() - began})
        seconds += time.monotonic() - began
        steps = arm.iterations * arm.choices.environments * arm.choices.rollout
        for number, cell in enumerate(group):
            curves = {name: [record[name][number] for record in records] for name in records[0]}
            yield cell, {"measured": curves, "steps": steps, "seconds": seconds / len(group)}
        saved.remove()


def _averaged(logs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By name, over the rollouts that log it; returns and lengths over all finished episodes."""
    record: dict[str, Any] = {}
    episodes_RC = np.asarray([log["episodes"] for log in logs], np.float64)
    for name in logs[-1]:
        values_RC = np.asarray([log[name] for log in logs if name in log], np.float64)
        if name in ("return", "length", "solved"):
            returns_C = np.sum(np.where(episodes_RC > 0, values_RC * episodes_RC, 0), 0)
            with np.errstate(invalid="ignore", divide="ignore"):
                record[name] = returns_C / np.sum(episodes_RC, 0)
        elif name == "episodes":
            record[name] = np.sum(values_RC, 0)
        else:
            record[name] = np.mean(values_RC, 0)
    return {name: [None if np.isnan(x) else float(x) for x in value_C]
            for name, value_C in record.items()}  # fmt: skip


def _key(seed: jax.Array, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 200 + purpose)
