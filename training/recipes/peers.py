# SPDX-License-Identifier: Apache-2.0
"""Ours beside another library's, a process of each in turn, as speed benches of recipes have it."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np

RATE = "steps_per_second"


def last_line(command: list[str]) -> dict[str, Any]:
    """What a process, which must succeed, prints last: JSON."""
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def ratio(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> str:
    """Of the rates of runs that took turns, in words: the median, and from where to where."""
    pairs = zip(ours, theirs, strict=True)
    ratios = sorted(mine[RATE] / other[RATE] for mine, other in pairs)
    return f"ours over theirs: {np.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
