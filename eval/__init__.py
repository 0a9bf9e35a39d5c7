# SPDX-License-Identifier: Apache-2.0
"""Numbers about a model. Part of griffin-lm."""

from griffin_lm import require_ours

require_ours("recurrentgemma", "checkpoints")
