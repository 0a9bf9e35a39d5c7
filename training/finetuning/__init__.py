# SPDX-License-Identifier: Apache-2.0
"""A checkpoint taught by prompts and responses, in full or by low-rank adapters."""
