# SPDX-License-Identifier: Apache-2.0
"""Plasticity: why networks stop learning, and what keeps them from it (2303.01486, 2402.18762)."""
