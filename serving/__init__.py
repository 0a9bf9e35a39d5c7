# SPDX-License-Identifier: Apache-2.0
"""griffin-lm's serving: many requests in one batch of states, behind OpenAI's HTTP API."""

from griffin_lm import require_ours

require_ours("recurrentgemma", "checkpoints")
