# SPDX-License-Identifier: Apache-2.0
"""To and from disk: our own format, DeepMind's and Hugging Face's. Part of griffin-lm."""

from griffin_lm import require_ours

require_ours("recurrentgemma")
