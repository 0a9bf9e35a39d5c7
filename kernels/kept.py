# SPDX-License-Identifier: Apache-2.0
"""Names of what a kernel's backward pass needs of its forward pass, for a rematerialisation policy
that keeps it (jax.checkpoint_policies.save_only_these_names)."""

ATTENTION = "attention"  # the output, and where there is one the log normaliser
RECURRENCE = "recurrence"  # the states of every token
