# SPDX-License-Identifier: Apache-2.0
"""The settings of 2405.00662 (section 4 and its code), and its interventions as arms."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from training.recipes.rl.networks import MINATAR, NATURE
from training.recipes.rl.ppo import PPOChoices
from training.recipes.vision.layers import Activation, Style
from training.recipes.vision.mlp import MLPConfig

ATARI = PPOChoices(actor=NATURE, critic=NATURE)
MINATAR_CHOICES = PPOChoices(actor=MINATAR, critic=MINATAR)
ATARI_GAMES = ("Phoenix", "NameThisGame", "DoubleDunk", "Qbert", "Gravitar", "BattleZone")
MUJOCO_TASKS = ("Ant-v5", "HalfCheetah-v5", "Humanoid-v5", "Hopper-v5")


def mujoco(activation: Activation = "relu") -> PPOChoices:
    """The paper's for MuJoCo, of either activation."""
    network = MLPConfig(widths=(64, 64), style=Style(activation=activation))
    return PPOChoices(
        actor=network,
        critic=network,
        environments=2,
        rollout=1024,
        epochs=10,
        minibatch=64,
        learning_rate=3e-4,
        clip=0.2,
        entropy=0.0,
    )


def feature_beta(choices: PPOChoices, features: str) -> float:
    """The paper's: the power of ten at which the term has the size of PPO's loss."""
    config: Any = choices.actor
    if not isinstance(config, MLPConfig):
        return 10.0 if features == "all" else 1.0
    return 10.0 if config.style.activation == "relu" else 1.0


def interventions(choices: PPOChoices) -> dict[str, PPOChoices]:
    """Each of the paper's, by name; `none` is plain PPO."""
    changes: Mapping[str, Mapping[str, Any]] = {
        "none": {},
        "PFO last": {"feature_beta": feature_beta(choices, "last"), "features": "last"},
        "PFO all": {"feature_beta": feature_beta(choices, "all"), "features": "all"},
        "reset Adam": {"reset_optimizer": True},
        "equal betas": {"b1": 0.9, "b2": 0.9},
        "shared trunk": {"shared": True},
        "annealed": {"anneal": True},
    }
    return {name: dataclasses.replace(choices, **change) for name, change in changes.items()}
