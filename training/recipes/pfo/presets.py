# SPDX-License-Identifier: Apache-2.0
"""2405.00662 by its own settings, as named runs: `griffin recipe pfo --preset mujoco`.

All tasks, epochs and interventions of the paper are hundreds of runs, of 5 million steps each on
MuJoCo and 33 million on Atari: ask for some of them. Runs that are finished serve whatever is asked
for later.

Capacity loss is fitted at each of 40 measurements, on states of an untrained agent (the paper:
from the checkpoints of its runs, one each 2.5%).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.experiment import Cell, Experiment, Preset, PresetOptions
from training.recipes.pfo.arms import ATARI, ATARI_GAMES, MUJOCO_TASKS, interventions, mujoco
from training.recipes.pfo.capacity import capacity_loss
from training.recipes.pfo.conclusions import conclude_agents
from training.recipes.rl.host_environments import ATARI as ATARI_PREFIX
from training.recipes.rl.host_environments import gymnasium_environments
from training.recipes.rl.ppo import PPO, AgentState, PPOArm, PPOChoices
from training.recipes.rl.ppo_host import train_host

MEASURED = 40
TANH = " tanh"  # of the arms of MuJoCo with the paper's other activation


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapacityFit:
    """On so many steps of so many environments, so many epochs."""

    environments: int
    steps: int
    epochs: int


FITS = {"atari": CapacityFit(environments=1, steps=36_000, epochs=1)}
FITS["mujoco"] = CapacityFit(environments=4, steps=1_000, epochs=4)


def paper_arms(options: PresetOptions, choices: Mapping[str, PPOChoices]) -> dict[str, PPOArm]:
    """Environments x epochs x interventions. Raises UserError: there is no such intervention."""
    for name in options.interventions:
        if name not in choices:
            raise UserError(
                f"--interventions {name!r}{did_you_mean(name, choices)}: expected some of "
                f"{', '.join(map(repr, choices))}"
            )
    return {
        f"{environment.removeprefix(ATARI_PREFIX).split('-')[0]}/{epochs}/{name}": PPOArm(
            choices=dataclasses.replace(choices[name], epochs=epochs),
            environment=environment,
            steps=options.steps,
            measured=MEASURED,
        )
        for environment in options.environments
        for epochs in options.epochs
        for name in options.interventions
    }


def initial_states(arm: PPOArm, seed: int, fit: CapacityFit) -> np.ndarray:
    """What the untrained agent of a run meets, [N, ...]."""
    with gymnasium_environments(arm.environment, fit.environments, seed=seed) as environments:
        agent = PPO(arm.choices, environments.observation_shape, environments.policy)
        key = jax.random.fold_in(jax.random.key(seed), 300)
        state = jax.jit(agent.start)(key)
        act = jax.jit(
            lambda observation_B, key: agent.policy.action(agent.act(state, observation_B, key))
        )
        observation_B, met = environments.reset(), []
        for number in range(fit.steps):
            met.append(observation_B)
            action_B = np.asarray(act(observation_B, jax.random.fold_in(key, number)))
            observation_B = environments.step(action_B).observation
    return np.concatenate(met)


def measure_with_capacity(
    cells: Sequence[Cell], folder: Path, *, fit: CapacityFit
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The runs, one after another, with capacity loss at every measurement."""
    for cell in cells:
        states_N = initial_states(cell.choices, cell.seed, fit)
        key = jax.random.fold_in(jax.random.key(cell.seed), 301)
        fitted: Any = None

        def capacity(
            agent: PPO, state: AgentState, number: int, states_N=states_N, key=key
        ) -> dict[str, float]:
            nonlocal fitted
            if fitted is None:
                fitted = jax.jit(
                    lambda state, states_N: capacity_loss(
                        agent,
                        state,
                        agent.start(jax.random.fold_in(key, 2)),
                        states_N,
                        key,
                        epochs=fit.epochs,
                    )
                )
            return {name: float(x) for name, x in jax.device_get(fitted(state, states_N)).items()}

        yield from train_host([cell], folder, at_measurement=capacity)


def _preset(name: str, what: str, options: PresetOptions, arms: Any) -> Preset:
    def experiment(options: PresetOptions) -> Experiment:
        fit = FITS[name]

        def measure(cells: Sequence[Cell], folder: Path):
            return measure_with_capacity(cells, folder, fit=fit)

        return Experiment(
            name=name,
            question=what,
            cost="days",
            arms=arms(options),
            measure_in=measure,
            conclude=conclude_agents,
        )

    return Preset(name=name, what=what, options=options, experiment=experiment)


def _mujoco_arms(options: PresetOptions) -> dict[str, PPOArm]:
    choices = interventions(mujoco())
    tanh = interventions(mujoco("tanh"))
    return paper_arms(options, choices | {f"{name}{TANH}": one for name, one in tanh.items()})


def _atari_arms(options: PresetOptions) -> dict[str, PPOArm]:
    return paper_arms(options, interventions(ATARI))


INTERVENTIONS = tuple(interventions(ATARI))
PRESETS = (
    _preset(
        "mujoco",
        "the paper's tasks of MuJoCo: 5 million steps, 10, 15 and 20 epochs, ReLU and Tanh",
        PresetOptions(
            environments=MUJOCO_TASKS,
            epochs=(10, 15, 20),
            interventions=(*INTERVENTIONS, *(f"{name}{TANH}" for name in INTERVENTIONS)),
            steps=5_000_000,
        ),
        _mujoco_arms,
    ),
    _preset(
        "atari",
        "the paper's games of Atari: 100 million frames, 4, 6 and 8 epochs",
        PresetOptions(
            environments=tuple(f"{ATARI_PREFIX}{game}-v5" for game in ATARI_GAMES),
            epochs=(4, 6, 8),
            interventions=INTERVENTIONS,
            steps=33_333_333,
        ),
        _atari_arms,
    ),
)
