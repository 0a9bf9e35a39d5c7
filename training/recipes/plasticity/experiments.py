# SPDX-License-Identifier: Apache-2.0
"""The experiments of `griffin recipe plasticity`."""

from training.recipes.plasticity.adam_study import ADAM
from training.recipes.plasticity.agent_study import AGENTS
from training.recipes.plasticity.domain_study import DOMAINS
from training.recipes.plasticity.mdp_study import TABLE
from training.recipes.plasticity.offset_study import OFFSET
from training.recipes.plasticity.remedy_study import FRACTION, REMEDIES
from training.recipes.plasticity.sac_study import SAC_STUDY
from training.recipes.plasticity.walk_study import WALKS

EXPERIMENTS = (ADAM, WALKS, TABLE, REMEDIES, FRACTION, OFFSET, DOMAINS, AGENTS, SAC_STUDY)
