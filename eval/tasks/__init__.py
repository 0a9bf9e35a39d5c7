# SPDX-License-Identifier: Apache-2.0
"""Tasks: small ones that models are trained for here, recall of a text, and those of the
lm-evaluation-harness."""
