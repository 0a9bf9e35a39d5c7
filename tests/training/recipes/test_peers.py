# SPDX-License-Identifier: Apache-2.0
"""What processes print, and how fast they were beside each other."""

import subprocess
import sys

import pytest

from training.recipes.peers import last_line, ratio


def test_the_last_line():
    program = "import json; print('words'); print(json.dumps(dict(a=1)))"
    assert last_line([sys.executable, "-c", program]) == {"a": 1}
    with pytest.raises(subprocess.CalledProcessError):
        last_line([sys.executable, "-c", "raise SystemExit(3)"])


def test_ratios_of_runs_in_turn():
    ours, theirs = ([{"steps_per_second": x} for x in rates] for rates in ((4, 9, 8), (2, 3, 2)))
    assert ratio(ours, theirs) == "ours over theirs: 3.0 (2.0 to 4.0)"
