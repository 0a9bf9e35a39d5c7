# SPDX-License-Identifier: Apache-2.0
"""Tasks made of modules, and which learners solve new combinations of them (arXiv 2312.15001)."""
