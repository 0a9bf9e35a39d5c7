# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe sparc` runs."""

from training.recipes.sparc.scene_study import MIXING, SCENES, TOWERS

EXPERIMENTS = (SCENES, MIXING, TOWERS)
