# SPDX-License-Identifier: Apache-2.0
"""Companion papers, one folder each: `griffin recipe NAME`. Part of griffin-lm.

A recipe is a folder with an `experiments.py`, whose EXPERIMENTS are values (experiment.py); nothing
else registers it. Recipes do not import each other; what several share lies in `vision` and `rl`.
"""
