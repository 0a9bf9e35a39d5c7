# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe modular` runs."""

from training.recipes.modular.few_shot_study import (
    EIGHT,
    FOUR,
    GOALS,
    PAPER_PRESETS,
    PREFERENCES,
    SUPPORTS,
    TRANSFER,
)
from training.recipes.modular.strings_study import STRINGS
from training.recipes.modular.theory_study import PAPER_THEORY, SIZES, THEORY

EXPERIMENTS = (THEORY, SIZES, FOUR, EIGHT, SUPPORTS, TRANSFER, PREFERENCES, GOALS, STRINGS)
PRESETS = (PAPER_THEORY, *PAPER_PRESETS)
