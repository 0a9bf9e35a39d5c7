# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the trainer; each file starts with its command."""
