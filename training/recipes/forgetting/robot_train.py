# SPDX-License-Identifier: Apache-2.0
"""A run of RoboticSequence: SAC goes on with a teacher, or begins anew, and what it could do is
measured all the while.

    for record in records(arm, seed, folder):          # the first one is before any training
        record["success"]      # of each stage, when an episode starts there
        record["solved"]       # stages of an episode from the beginning, of those in training
        record["kl"]           # KL(teacher || actor) on the teacher's states, whatever the method
        record["held"]         # the term of the method, with its weight

A run that was stopped goes on at its last measurement, and the replay buffer and the running
episode with it. Success is that of the policy's mode, from the same starts every time; episodes in
training draw their actions. Legend: N transitions, M batch, A dimensions of an action.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.recipes.experiment import Cell
from training.recipes.forgetting.robot_teacher import (
    SCRATCH,
    Make,
    RobotArm,
    Teacher,
    divergence,
    holding,
    taught,
    teacher_file,
)
from training.recipes.forgetting.robots import MOST_SEED, RoboticSequence, metaworld_task
from training.recipes.rl.replay import added
from training.recipes.rl.sac import SAC, SACState, Transition
from training.recipes.rl.saved import Saved

SCORED = 1024  # of the teacher's states, for `kl`


def records(
    arm: RobotArm, seed: int, folder: Path, *, make: Make = metaworld_task
) -> Iterator[dict[str, Any]]:
    """See the module; those of a run that was stopped first. make: a task by its name."""
    teacher = taught(arm, seed, folder, make=make)
    saved = Saved(folder, ["robots", dataclasses.asdict(arm), seed])
    running, scored = (
        RoboticSequence(
            [make(name) for name in arm.stages], seed=seed, limit=arm.limit, scale=teacher.scale
        )
        for _ in range(2)
    )
    with running, scored:
        run = Run(arm, seed, running, teacher)
        run.state, kept = saved.taken(run.state)
        logged: list[dict[str, Any]] = kept.get("records", [])
        yield from logged
        if kept:
            running.restore(kept["sequence"])
        else:
            running.begin()
        for number in range(len(logged), arm.measured + 1):
            logged.append({**run.trained(number), **run.measured(scored)})
            yield logged[-1]
            saved.keep(run.state, {"records": logged, "sequence": running.snapshot()})
    saved.remove()


class Run:
    """One run's agent, and the sequence that it acts in."""

    def __init__(self, arm: RobotArm, seed: int, sequence: RoboticSequence, teacher: Teacher):
        agent = SAC(arm.choices(), sequence.observation_shape, sequence.policy)
        self.beside = holding(arm, agent, teacher)
        agent.beside, agent.protected = self.beside, arm.protected
        self.arm, self.agent, self.sequence, self.teacher = arm, agent, sequence, teacher
        self.key = jax.random.key(seed)
        self.state = self._start()
        self.act, self.learn = jax.jit(agent.act), jax.jit(agent.learn, donate_argnums=0)
        self.mode = jax.jit(self._mode)
        self.numbers = jax.jit(self._numbers)

    def _start(self) -> SACState:
        """Of the teacher, but from scratch."""
        state = self.agent.start(jax.random.fold_in(self.key, MOST_SEED))
        if self.arm.method != SCRATCH:
            # Copies: a state is given away at each update, and the critics stand in it twice.
            actor, critics, targets = jax.tree.map(
                jnp.array, (self.teacher.actor, self.teacher.critics, self.teacher.critics)
            )
            state = state._replace(actor=actor, critics=critics, targets=targets)
        if self.arm.protected:
            state = state._replace(buffer=added(state.buffer, self.teacher.kept))
        return jax.tree.map(jnp.array, state)

    def trained(self, number: int) -> dict[str, Any]:
        """The steps before a measurement, none before the first; what came of them."""
        arm, sequence, solved, losses = self.arm, self.sequence, [], []
        block, began = -(-arm.steps // arm.measured), time.monotonic()
        steps = range((number - 1) * block, number * block) if number else range(0)
        observation = sequence.observation
        for step in steps:
            act_key, learn_key = jax.random.split(jax.random.fold_in(self.key, step))
            if step < arm.begin and arm.method == SCRATCH:
                share_A = jax.random.uniform(
                    act_key, (self.agent.dimensions,), minval=-0.999, maxval=0.999
                )
                drawn_A = np.arctanh(np.asarray(share_A))
            else:
                drawn_A = np.asarray(self.act(self.state.actor, observation[None], act_key))[0]
            stepped = sequence.step(np.tanh(drawn_A))
            one = Transition(
                observation, drawn_A, stepped.reward, stepped.terminated, stepped.observation
            )
            types = Transition(np.float32, np.float32, np.float32, np.bool_, np.float32)
            rows = Transition(*(kind(x)[None] for kind, x in zip(types, one, strict=True)))
            self.state, loss = self.learn(self.state, rows, learn_key)
            losses.append(loss)
            observation = stepped.observation
            if stepped.terminated:
                if stepped.following is None:
                    solved.append(stepped.solved)
                observation = sequence.begin(stepped.following or 0)
        means = {name: np.mean([float(one[name]) for one in losses]) for name in _names(losses)}
        return {
            "solved": float(np.mean(solved)) if solved else None,
            "episodes": len(solved),
            "steps_per_second": len(steps) / (time.monotonic() - began),
            **{name: float(value) for name, value in means.items()},
        }

    def measured(self, scored: RoboticSequence) -> dict[str, Any]:
        """What the actor can do now."""
        actor, success = self.state.actor, []
        for stage in range(len(self.arm.stages)):
            ends = [self._solves(scored, stage, start) for start in range(self.arm.starts)]
            success.append(float(np.mean(ends)))
        kl, held = self.numbers(actor)
        return {"success": success, "kl": float(kl), "held": float(held)}

    def _solves(self, scored: RoboticSequence, stage: int, start: int) -> bool:
        observation = scored.begin(stage, seed=start)
        while True:
            action_A = np.asarray(self.mode(self.state.actor, observation[None]))[0]
            stepped = scored.step(action_A)
            if stepped.terminated:
                return stepped.success
            observation = stepped.observation

    def _mode(self, actor: Any, observation_B: jax.Array) -> jax.Array:
        outputs_BO = self.agent.actor.apply(actor, {}, observation_B).outputs_BO
        return jnp.tanh(self.agent.policy.mode(outputs_BO))

    def _numbers(self, actor: Any) -> tuple[jax.Array, jax.Array]:
        """`kl` and `held`."""
        count = self.arm.teaching.kept
        rows_M = np.linspace(0, count - 1, min(SCORED, count)).astype(int)
        kl = jnp.mean(divergence(self.agent, self.teacher, actor, rows_M))
        if self.beside is None:
            return kl, jnp.zeros(())
        return kl, self.beside(actor, jax.random.key(0))


def _names(losses: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(losses[0]) if losses else []


def train_robots(
    cells: Sequence[Cell], folder: Path, *, make: Callable[[str], Any] = metaworld_task
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The curves of each cell of RobotArm, one after another; a teacher is made once for all arms
    of its seed."""
    for cell in cells:
        curves: dict[str, list[Any]] = {}
        for record in records(cell.choices, cell.seed, folder, make=make):
            for name, value in record.items():
                curves.setdefault(name, []).append(value)
            print(
                f"  {cell.arm}, seed {cell.seed}: {len(curves['success']) - 1} of "
                f"{cell.choices.measured}  success {record['success']}  solved {record['solved']}  "
                f"{record['steps_per_second']:,.0f} steps/s",
                file=sys.stderr,
                flush=True,
            )
        yield cell, curves
    for cell in cells:
        teacher_file(cell.choices, cell.seed, folder).remove()
