# SPDX-License-Identifier: Apache-2.0
"""2405.00662 on Hopper: 10 and 20 epochs, PFO off, on the last layer, and on all; the paper's
settings with ReLU, and a million steps (the paper: five)."""

import dataclasses
from collections.abc import Sequence

from training.recipes.experiment import Experiment
from training.recipes.pfo.arms import interventions, mujoco
from training.recipes.pfo.conclusions import conclude_agents
from training.recipes.rl.ppo import PPOArm
from training.recipes.rl.ppo_host import train_host

EPOCHS = (10, 20)
SHOWN = ("none", "PFO last", "PFO all")


def hopper_arms(*, epochs: Sequence[int], steps: int, measured: int) -> dict[str, PPOArm]:
    """Epochs x {none, PFO last, PFO all}."""
    choices = interventions(mujoco())
    return {
        f"{count}/{name}": PPOArm(
            choices=dataclasses.replace(choices[name], epochs=count),
            environment="Hopper-v5",
            steps=steps,
            measured=measured,
        )
        for count in epochs
        for name in SHOWN
    }


HOPPER = Experiment(
    name="hopper",
    question="does PFO hold norm and excess ratio, and what does it do to return and rank?",
    cost="about 5 CPU hours",
    arms=hopper_arms(epochs=EPOCHS, steps=1_000_000, measured=40),
    measure_in=train_host,
    conclude=conclude_agents,
)
