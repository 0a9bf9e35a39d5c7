# SPDX-License-Identifier: Apache-2.0
"""Plots say what they show, and are the same file for the same numbers."""

import math
import re
from pathlib import Path

from eval import plots

CURVES = [
    plots.Line("Griffin", [1, 32, 64], [3.0, 2.5, 2.4], [2.9, 2.4, math.nan], [3.1, 2.6, math.nan]),
    plots.Line("MQA", [1, 32, 64], [3.0, 2.6, 4.0], kind=3, variant=1),
]


def text_of(path: Path) -> str:
    return " ".join(re.findall(r">([^<>\n]+)<", path.read_text("utf-8")))


def test_lines_have_a_title_units_bands_and_marks(tmp_path: Path):
    for name in ("a.svg", ".b.svg.123.tmp"):
        plots.lines(
            tmp_path / name,
            CURVES,
            title="Loss by position",
            xlabel="position (tokens)",
            ylabel="loss (nats per token)",
            log_x=True,
            marks={"trained at 32": 32},
            note="95% intervals over 5 books",
        )
    content = (tmp_path / "a.svg").read_text("utf-8")
    assert content == (tmp_path / ".b.svg.123.tmp").read_text("utf-8")
    shown = text_of(tmp_path / "a.svg")
    for word in ("Loss by position", "position (tokens)", "loss (nats per token)", "Griffin"):
        assert word in shown
    assert "trained at 32" in shown
    assert "95% intervals over 5 books" in shown
    assert "FillBetween" in content or "PolyCollection" in content


def test_points_name_those_that_nothing_beats(tmp_path: Path):
    plots.points(
        tmp_path / "a.svg",
        {"sgd": [(1.0, 2.0), (2.0, 2.5)], "adam": [(3.0, 1.0)]},
        title="Cost and gain",
        xlabel="FLOPs per token",
        ylabel="bits per byte",
        log_x=True,
        names={"sgd": ["cheap", "beaten"], "adam": ["dear"]},
    )
    shown = text_of(tmp_path / "a.svg")
    assert "cheap" in shown
    assert "dear" in shown
    assert "beaten" not in shown


def test_bars(tmp_path: Path):
    values = {"full": (1.0, 0.9, 1.2), "lora": (2.0, math.nan, math.nan)}
    plots.bars(tmp_path / "a.svg", values, title="Seconds", ylabel="seconds per token")
    assert "lora" in text_of(tmp_path / "a.svg")
