# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe memory` runs."""

from training.recipes.memory.memory_study import MEMORY

EXPERIMENTS = (MEMORY,)
