# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe forgetting` runs."""

from training.recipes.forgetting.apple_study import APPLES_FIRST, APPLES_STUDY
from training.recipes.forgetting.language_study import LANGUAGE
from training.recipes.forgetting.mdp import MDP
from training.recipes.forgetting.minihack_study import MINIHACK
from training.recipes.forgetting.montezuma_study import MONTEZUMA, MONTEZUMA_PAPER
from training.recipes.forgetting.nethack_study import NETHACK, NETHACK_PAPER
from training.recipes.forgetting.robot_study import ROBOTS

EXPERIMENTS = (MDP, APPLES_STUDY, APPLES_FIRST, LANGUAGE, MINIHACK, NETHACK, MONTEZUMA, ROBOTS)
PRESETS = (NETHACK_PAPER, MONTEZUMA_PAPER)
