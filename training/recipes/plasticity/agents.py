# SPDX-License-Identifier: Apache-2.0
"""Double DQN and C51 (recipes/rl/dqn.py) with every intervention of this recipe, and the probe on
what they have seen; arms that differ in numbers alone and their seeds run side by side.

At each renewal of the target network an arm does what it does between tasks (learner.py: reset of
the head or the optimizer, shrink and perturb). Legend: B batch, A actions, K bins.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.diagnostics.probe import probe
from training.recipes.experiment import Cell, as_json
from training.recipes.plasticity.learner import Choices, Learner, State
from training.recipes.plasticity.panel import units
from training.recipes.plasticity.value_probe import value_task
from training.recipes.rl.dqn import DQN, DQNChoices, DQNState
from training.recipes.rl.environments import Environment, gymnax_environment
from training.recipes.rl.replay import drawn
from training.recipes.rl.saved import Saved
from training.recipes.side_by_side import join, numbers_of, programs, seeds_of, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentArm:
    """steps: of all environments together, at least, after which the run is over. measured: how
    many times, evenly. The probe: probe_steps steps on probe_rows observations of the buffer."""

    choices: Choices
    dqn: DQNChoices
    environment: str
    steps: int = 1_000_000
    measured: int = 20
    probe_steps: int = 300
    probe_rows: int = 512

    @property
    def block(self) -> int:
        """Steps of each environment between two measurements."""
        return -(-self.steps // (self.dqn.environments * self.measured))


class AgentLearner:
    """This recipe's learner as DQN wants it."""

    def __init__(self, choices: Choices, environment: Environment):
        self.inner = Learner(
            choices,
            image_shape=environment.observation_shape,
            numbers=environment.policy.outputs,
        )
        self.start = self.inner.start
        self.renewed = self.inner.switch

    def values(self, state: State, x_BHWC: jax.Array) -> jax.Array:
        """[B, A, K]."""
        return self.inner.shaped(self.inner.outputs(state.params, state.stats, x_BHWC).outputs_BO)

    def step(
        self, state: State, loss: Callable[[jax.Array], jax.Array], x_BHWC: jax.Array
    ) -> tuple[State, jax.Array]:
        """One update."""
        return self.inner.step(state, loss, x_BHWC)


class AgentRun:
    """The pure functions of arms of one structure: of one cell, its numbers traced."""

    def __init__(self, structure: AgentArm, environment: Environment):
        self.structure, self.environment = structure, environment

    def agent(self, numbers: Any) -> DQN:
        """Of a cell's numbers."""
        arm = join(self.structure, numbers)
        learner = AgentLearner(arm.choices, self.environment)
        return DQN(arm.dqn, learner, self.environment)

    def start(self, numbers: Any, seed: jax.Array) -> DQNState:
        """Newly initialised."""
        return self.agent(numbers).start(_key(seed, 0))

    def learn(
        self, numbers: Any, seed: jax.Array, state: DQNState, number: jax.Array
    ) -> tuple[DQNState, dict[str, jax.Array]]:
        """The `number`th block; what is logged."""
        key = jax.random.fold_in(_key(seed, 1), number)
        return self.agent(numbers).learn(state, key, block=self.structure.block)

    def measure(
        self, numbers: Any, seed: jax.Array, state: DQNState, number: jax.Array
    ) -> dict[str, jax.Array]:
        """The probe's loss, that of a fresh network beside it, and the shares of units."""
        arm = self.structure
        key = jax.random.fold_in(_key(seed, 2), number)
        learner = AgentLearner(join(arm, numbers).choices, self.environment).inner
        rows = drawn(state.buffer, key, arm.probe_rows)
        x_NHWC = rows.observation.astype(jnp.float32)
        task = value_task(learner, state.learner, x_NHWC, key, batch_size=arm.dqn.batch)
        fresh = learner.start(jax.random.fold_in(key, 1)).params
        result = probe(
            state.learner.params, fresh, task, learner.tx, steps=arm.probe_steps, key=key
        )
        shares = units(learner, state.learner, x_NHWC)
        return {"probe": result.loss, "fresh_probe": result.fresh_loss, **shares}


def train_agents(
    cells: Sequence[Cell],
    folder: Path,
    *,
    make: Callable[[str], Environment] = gymnax_environment,
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The numbers of each cell of AgentArm: `measured`, by name at each measurement; `seconds`.

    folder: where a run in training is kept.
    """
    for group in programs(cells):
        arm: AgentArm = group[0].choices
        run = AgentRun(split(arm)[0], make(arm.environment))
        numbers, seeds = numbers_of(group), seeds_of(group)
        learn = jax.jit(jax.vmap(run.learn, in_axes=(0, 0, 0, None)), donate_argnums=2)
        measure = jax.jit(jax.vmap(run.measure, in_axes=(0, 0, 0, None)))
        identity = [(cell.arm, dataclasses.asdict(cell.choices), cell.seed) for cell in group]
        saved = Saved(folder, identity)
        state, kept = saved.taken(jax.jit(jax.vmap(run.start))(numbers, seeds))
        records, seconds = kept.get("records", []), kept.get("seconds", 0.0)
        began = time.monotonic()
        while len(records) < arm.measured:
            number = jnp.int32(len(records))
            state, logged = learn(numbers, seeds, state, number)
            record = jax.device_get(logged)  # before the next program begins
            record |= jax.device_get(measure(numbers, seeds, state, number))
            records.append(as_json({name: np.nan_to_num(x) for name, x in record.items()}))
            saved.keep(state, {"records": records, "seconds": seconds + time.monotonic() - began})
        seconds += time.monotonic() - began
        for place, cell in enumerate(group):
            curves = {name: [record[name][place] for record in records] for name in records[0]}
            yield cell, {"measured": curves, "seconds": seconds / len(group)}
        saved.remove()


def _key(seed: jax.Array, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 400 + purpose)
