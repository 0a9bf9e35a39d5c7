# SPDX-License-Identifier: Apache-2.0
"""Dynamic evaluation: score a segment, learn from it, go on. docs/dynamic_evaluation.md"""
