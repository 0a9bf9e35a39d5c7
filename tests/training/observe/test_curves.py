# SPDX-License-Identifier: Apache-2.0
"""Learning curves are means of what metrics.jsonl holds."""

import json
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from training.observe.curves import read_curve
from training.run_folder import METRICS


def write_run(folder: Path, *, bits: bool = True, steps: int = 10) -> Path:
    """Losses of 10, 9, 8 ...; held out is measured at every fifth step."""
    folder.mkdir()
    lines = []
    for i in range(steps):
        record = {"step": i + 1, "tokens": 100 * (i + 1), "loss": 10.0 - i}
        record |= {"tokens_per_second": 5.0 + i}
        if bits:
            record["bits_per_byte"] = (10.0 - i) / 2
        if i % 5 == 4:
            record["held_out_bits_per_byte"] = 6.0 - i / 10
        lines.append(json.dumps(record))
    (folder / METRICS).write_text("".join(f"{line}\n" for line in lines) + '{"step": 99, "lo')
    return folder


def test_points_are_means_of_groups(tmp_path):
    curve = read_curve(write_run(tmp_path / "run"), points=4)
    assert (curve.name, curve.unit, curve.steps, curve.tokens) == ("run", "bits_per_byte", 10, 1000)
    assert curve.training.tokens == [300, 600, 900, 1000]
    assert curve.training.y == [4.5, 3.0, 1.5, 0.5]
    assert curve.training.low == [4.0, 2.5, 1.0, 0.5]
    assert curve.training.high == [5.0, 3.5, 2.0, 0.5]
    assert (curve.held_out.tokens, curve.held_out.y) == ([500, 1000], [5.6, 5.1])
    assert curve.tokens_per_second == 9.5


def test_without_bytes_or_held_out_text(tmp_path):
    curve = read_curve(write_run(tmp_path / "run", bits=False, steps=4), points=4)
    assert curve.unit == "loss"
    assert curve.training.y == [10.0, 9.0, 8.0, 7.0]
    assert curve.held_out.y == []


def test_no_run(tmp_path):
    with pytest.raises(UserError, match=r"metrics.jsonl is not there: give the folder of a run"):
        read_curve(tmp_path)
    write_run(tmp_path / "begun", steps=0)
    with pytest.raises(UserError, match="has no step with a loss yet"):
        read_curve(tmp_path / "begun")
