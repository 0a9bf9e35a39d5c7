# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning forgets, and what holds it (arXiv 2402.02868)."""
