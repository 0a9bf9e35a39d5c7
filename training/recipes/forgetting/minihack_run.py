# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on the rooms of MiniHack from a copy of an expert, of one gap, method and seed.

    cloning    the copy has seen a few of the expert's episodes, and little of each: it knows all of
               the way, but not well enough to come far
    coverage   the copy has seen many, and of them the states of FAR alone

Measured, evenly: `success` and `reached_far` of the episodes of training since the measurement
before, `far`, their steps' share in FAR; `from_far`, the success of episodes that begin there; on
stored episodes of the expert the log-likelihood of its actions in FAR (`far_likelihood`) and in
CLOSE (`close_likelihood`), and KL(copy || policy) in FAR (`far_kl`). `before` has those of the copy
itself; `conflicts`, the views of both rows that ask for different actions.

Legend: B environments, N states.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.dynamic.retention import Weight, categorical_kl
from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell
from training.recipes.forgetting.minihack import RoomEnvironments, Task, minihack_environments
from training.recipes.forgetting.minihack_clone import (
    Demonstrations,
    Method,
    cloned,
    demonstrate,
    retention,
    valued,
)
from training.recipes.rl.ppo import PPO, AgentState, PPOArm, PPOChoices
from training.recipes.rl.ppo_host import HostRun
from training.recipes.vision.mlp import MLPConfig

NETWORK = MLPConfig(widths=(64, 64))
NO_WEIGHT = Weight(start=0.0)
CURVES = ("success", "reached_far", "far", "from_far", "far_likelihood", "close_likelihood",
          "far_kl", "return", "entropy")  # fmt: skip
Gap = Literal["cloning", "coverage", "scratch"]
Make = Callable[..., RoomEnvironments]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HackArm:
    """scratch: a new policy, which has no teacher. copied: episodes of the expert that are copied,
    the first to end, in which it hardly slipped; stored: those that BC and EWC read and the
    likelihoods are of. updates: of the copy. valued_steps, valued_updates: of its critic."""

    gap: Gap
    method: Method = "none"
    weight: Weight = NO_WEIGHT
    copied: int = 4
    stored: int = 32
    updates: int = 200
    valued_steps: int = 512
    valued_updates: int = 500
    scored: int = 32
    """Episodes from FAR at a measurement."""
    task: Task = dataclasses.field(default_factory=Task)
    ppo: PPOArm = dataclasses.field(
        default_factory=lambda: PPOArm(
            choices=PPOChoices(
                actor=NETWORK,
                critic=NETWORK,
                environments=16,
                rollout=64,
                epochs=4,
                minibatch=256,
                learning_rate=3e-4,
                clip=0.2,
                entropy=0.01,
            ),
            environment="rooms of MiniHack",
            steps=120_000,
            measured=15,
        )
    )

    def __post_init__(self) -> None:
        if self.gap == "scratch" and self.method != "none":
            raise UserError(f"method={self.method!r} without a copy to be held to: expected none")

    @property
    def base(self) -> "HackArm":
        """What the arms of one copy have in common."""
        return dataclasses.replace(self, method="none", weight=NO_WEIGHT)


class Base(NamedTuple):
    """What fine-tuning begins with, whose actor is the teacher; the expert's stored episodes, and
    those of their states that a method may read."""

    state: AgentState
    stored: Demonstrations
    readable: Demonstrations


def base_of(arm: HackArm, seed: int, make: Make = minihack_environments) -> Base:
    """The copy of a gap, with a critic of its own."""
    key, choices = jax.random.key(seed), arm.ppo.choices
    with make(arm.task, choices.environments, seed=seed + 10_000) as environments:
        agent = PPO(choices, environments.observation_shape, environments.policy)
        begun, stored = jax.jit(agent.start)(key), demonstrate(environments, arm.stored)
        if arm.gap == "scratch":
            return Base(begun, stored, stored)
        shown = stored.where(stored.episode_N < arm.copied)
        readable = stored
        if arm.gap == "coverage":
            shown, readable = shown.where(shown.far_N), stored.where(stored.far_N)
        actor = cloned(agent, shown, jax.random.fold_in(key, 1), updates=arm.updates)
        critic = valued(
            agent,
            actor,
            environments,
            jax.random.fold_in(key, 2),
            steps=arm.valued_steps,
            updates=arm.valued_updates,
        )
    state = AgentState(actor, critic, agent.tx.init(actor), agent.tx.init(critic))
    return Base(state, stored, readable)


class Scores:
    """What is measured of a policy beside its training."""

    def __init__(self, arm: HackArm, base: Base, seed: int, make: Make):
        from_far = dataclasses.replace(arm.task, from_far=True)
        self.environments = make(from_far, arm.scored, seed=seed + 20_000)
        self.arm, self.base, self.key = arm, base, jax.random.fold_in(jax.random.key(seed), 3)
        self.agent = PPO(
            arm.ppo.choices, self.environments.observation_shape, self.environments.policy
        )
        self._act, self._of_stored = jax.jit(self._drawn), jax.jit(self._likelihoods)

    def __call__(self, state: AgentState, number: int) -> dict[str, float]:
        """By name; number: of the measurement."""
        key = jax.random.fold_in(self.key, number)
        of_stored = jax.device_get(self._of_stored(state.actor))
        return {
            "from_far": self.success(state, self.environments, key),
            **{name: float(value) for name, value in of_stored.items()},
        }

    def success(self, state: AgentState, environments: RoomEnvironments, key: jax.Array) -> float:
        """The share of one episode of each that comes to the staircase."""
        observation_B = environments.reset()
        running_B = np.ones(len(observation_B), bool)
        solved = 0
        for number in range(environments.task.limit):
            drawn_B = self._act(state, observation_B, key, np.int32(number))
            stepped = environments.step(np.asarray(drawn_B))
            solved += int(np.sum(running_B & stepped.terminated))
            running_B &= ~(stepped.terminated | stepped.truncated)
            observation_B = stepped.observation
            if not running_B.any():
                break
        return solved / len(running_B)

    def _drawn(
        self, state: AgentState, observation_B: jax.Array, key: jax.Array, number: jax.Array
    ) -> jax.Array:
        return self.agent.act(state, observation_B, jax.random.fold_in(key, number))

    def _likelihoods(self, actor: Any) -> dict[str, jax.Array]:
        stored, far_N = self.base.stored, jnp.asarray(self.base.stored.far_N)
        logits_NA = self.agent.judge(actor, jnp.asarray(stored.observation_N)).outputs
        old_NA = self.agent.judge(self.base.state.actor, jnp.asarray(stored.observation_N)).outputs
        log_prob_N = self.agent.policy.log_prob(logits_NA, jnp.asarray(stored.action_N, jnp.int32))
        return {
            "far_likelihood": jnp.mean(log_prob_N, where=far_N),
            "close_likelihood": jnp.mean(log_prob_N, where=~far_N),
            "far_kl": jnp.mean(categorical_kl(old_NA, logits_NA), where=far_N),
        }


def measure_in(
    cells: Sequence[Cell], folder: Path, *, make: Make = minihack_environments
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The curves of each cell (see the module), and `before`. A copy is trained once for all arms
    of a gap and a seed."""
    bases: dict[tuple[HackArm, int], Base] = {}
    for cell in sorted(cells, key=lambda cell: (cell.seed, cell.choices.gap)):
        arm: HackArm = cell.choices
        where = arm.base, cell.seed
        if where not in bases:
            bases.clear()
            bases[where] = base_of(arm, cell.seed, make)
        yield cell, tuned(arm, cell.seed, bases[where], folder, make)


def tuned(
    arm: HackArm, seed: int, base: Base, folder: Path, make: Make = minihack_environments
) -> dict[str, Any]:
    """The numbers of a cell."""
    scores, training = Scores(arm, base, seed, make), []

    def environments_of(name: str, count: int, *, seed: int) -> RoomEnvironments:
        del name
        training.append(make(arm.task, count, seed=seed))
        return training[-1]

    def at_measurement(agent: PPO, state: AgentState, number: int) -> dict[str, float]:
        del agent
        return training[0].visits().shares() | scores(state, number)

    with scores.environments:
        with make(arm.task, arm.scored, seed=seed + 30_000) as from_start:
            before = scores(base.state, arm.ppo.measured) | {
                "success": scores.success(base.state, from_start, scores.key)
            }
        run = HostRun(
            arm.ppo,
            seed,
            make=environments_of,
            at_measurement=at_measurement,
            begun=base.state,
            held=retention(scores.agent, base.state.actor, base.readable, arm.method, arm.weight),
            identity=dataclasses.asdict(arm),
        )
        records = []
        for record in run.records(folder):
            records.append(record)
            print(
                f"  {arm.gap}, {arm.method} {arm.weight.start:g}, seed {seed}: "
                f"{len(records)} of {arm.ppo.measured}  "
                f"success {record['success'] or 0:.2f}  from FAR {record['from_far']:.2f}  "
                f"{record['steps_per_second']:,.0f} steps/s",
                file=sys.stderr,
                flush=True,
            )
    curves = {name: [record[name] for record in records] for name in CURVES}
    conflicts = arm.task.rooms.conflicts(arm.task.view)
    return {"before": before, "conflicts": conflicts, **curves}
