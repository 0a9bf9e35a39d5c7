# SPDX-License-Identifier: Apache-2.0
"""2405.00662 on MinAtar: does more non-stationarity (epochs on each rollout) bring collapse sooner,
and what helps?

Smaller than the paper's Atari: two games of 10 x 10 pixels, 200,000 steps (33 million), a
convolution of 16 channels and a layer of 128 (Nature's, 512); plain PPO with every number of
epochs, the interventions with the most. Capacity loss is fitted at every measurement, on 1,024
states of the untrained agent.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from training.recipes.experiment import Cell, Experiment
from training.recipes.pfo.arms import MINATAR_CHOICES, interventions
from training.recipes.pfo.capacity import capacity_loss
from training.recipes.pfo.conclusions import conclude_agents
from training.recipes.rl.ppo import PPOArm, PPOChoices, flat
from training.recipes.rl.ppo_train import Run, RunState, train_ppo

GAMES = ("Breakout-MinAtar", "Asterix-MinAtar")
EPOCHS = (4, 8, 16)


def minatar_arms(
    choices: PPOChoices, *, games: Sequence[str], epochs: Sequence[int], steps: int, measured: int
) -> dict[str, PPOArm]:
    """Every game x {plain PPO x epochs, every intervention with the most epochs}."""
    return {
        f"{game.split('-')[0]}/{count}/{name}": PPOArm(
            choices=dataclasses.replace(one, epochs=count),
            environment=game,
            steps=steps,
            measured=measured,
        )
        for game in games
        for count in epochs
        for name, one in interventions(choices).items()
        if name == "none" or count == max(epochs)
    }


def measure(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The runs, with capacity loss at every measurement."""
    return train_ppo(cells, folder, at_measurement=capacity)


def capacity(run: Run, numbers: Any, seed: jax.Array, state: RunState) -> dict[str, jax.Array]:
    """Of one cell."""
    agent, key = run.agent(numbers), jax.random.fold_in(jax.random.key(seed), 300)
    _, rollout = run.rollout(agent, run.start(numbers, seed), key)
    fresh = agent.start(jax.random.fold_in(key, 2))
    return capacity_loss(agent, state.agent, fresh, flat(rollout.observation), key, epochs=1)


MINATAR = Experiment(
    name="minatar",
    question="do more epochs on a rollout bring collapse sooner, and what helps?",
    cost="about 3 CPU hours",
    arms=minatar_arms(MINATAR_CHOICES, games=GAMES, epochs=EPOCHS, steps=200_000, measured=20),
    measure_in=measure,
    conclude=conclude_agents,
)
