# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe pfo` runs."""

from training.recipes.pfo.hopper_study import HOPPER
from training.recipes.pfo.language_study import LANGUAGE
from training.recipes.pfo.minatar_study import MINATAR
from training.recipes.pfo.presets import PRESETS as PRESETS
from training.recipes.pfo.toy import TOY

EXPERIMENTS = (TOY, HOPPER, MINATAR, LANGUAGE)
