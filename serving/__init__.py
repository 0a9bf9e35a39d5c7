# SPDX-License-Identifier: Apache-2.0
"""Many requests, one batch of states. Part of griffin-lm."""

from griffin_lm import require_ours

require_ours("recurrentgemma", "checkpoints")
