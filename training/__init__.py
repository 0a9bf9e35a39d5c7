# SPDX-License-Identifier: Apache-2.0
"""From text to a checkpoint. Part of griffin-lm."""

from griffin_lm import require_ours

require_ours("recurrentgemma", "checkpoints", "eval")
