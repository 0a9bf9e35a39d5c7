# SPDX-License-Identifier: Apache-2.0
"""Numbers of seeds become intervals, tables and plots."""

import numpy as np

from eval.intervals import t_interval
from training.recipes import findings

ARMS = {
    "one": [{"a": {"b": [1.0, 2.0]}}, {"a": {"b": [3.0, 4.0]}}],
    "two": [{"a": {"b": [0.0, 0.0]}}, {"a": {"b": [0.0, 1.0]}}],
}


def test_curves_have_intervals_over_seeds(tmp_path):
    values_SX = findings.values(ARMS["one"], "a", "b")
    np.testing.assert_array_equal(values_SX, [[1, 2], [3, 4]])
    line = findings.curve("one", [1, 2], values_SX)
    assert line.y == [2.0, 3.0]
    assert line.low is not None
    assert line.low[0] < 2
    draw = findings.plot(ARMS, "a", "b", title="t", xlabel="x", ylabel="y")
    draw(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "one" in text
    assert "over 2 seeds" in text


def test_intervals_in_words_and_in_json():
    wide, alone = t_interval([1.0, 3.0]), t_interval([2.0])
    assert findings.shown(wide).startswith("2.000 ± 12.7")
    assert findings.shown(alone) == "2"
    assert findings.as_numbers(alone) == {"mean": 2.0, "low": None, "high": None, "count": 1}
    table = findings.interval_table("t", "arm", {"x": {"loss": wide}})
    assert (table.columns, table.rows[0][0]) == (("arm", "loss"), "x")
