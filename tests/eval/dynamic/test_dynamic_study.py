# SPDX-License-Identifier: Apache-2.0
"""The study: its plan, its rows against its cells, and that it goes on where it was stopped."""

import math
from pathlib import Path

import pytest

from eval.dynamic import dynamic_study, study_cells
from eval.dynamic.config import DynamicConfig
from eval.dynamic.dynamic_study import (
    PARTS,
    StudyArguments,
    gain_by_shift,
    main,
    plan,
    study,
    summary,
)
from eval.results import read_result
from recurrentgemma.errors import UserError
from tests.docs.world import PLAY, write_model
from tests.eval.dynamic.small import CONFIG


def test_the_plan_has_every_choice():
    variants = plan(PARTS, (16, 64, 256), 12)
    grid = [one for one in variants if one.part == "grid"]
    assert len(grid) == 4 * 3 * 3
    assert len({(one.part, one.name) for one in variants}) == len(variants)
    memories = {one.name: one.choices for one in variants if one.part == "memories"}
    assert {(one.state, one.learns) for one in memories.values()} == {
        *(("carry", True), ("carry", False), ("reset", True), ("reset", False))
    }
    thirds = [one.choices.layers for one in variants if one.name.startswith("MLPs,")]
    assert thirds == ["0-3", "4-7", "8-11"]
    assert {one.choices.update_every for one in variants if one.part == "updates"} == {1, 2, 4, 8}
    assert {one.part for one in plan(("layers",), (16,), 2)} == {"layers"}


def test_it_runs_and_goes_on(tmp_path: Path, monkeypatch):
    """The part of updates, cut down to one variant; stopped in between."""
    write_model(tmp_path / "run", CONFIG)
    (tmp_path / "own.txt").write_text(PLAY * 8)
    (tmp_path / "other.txt").write_text("import sys\nprint(sys.path)\n" * 16)
    full = dynamic_study.plan
    monkeypatch.setattr(dynamic_study, "plan", lambda *given: full(*given)[:1])
    monkeypatch.setattr(study_cells, "MOST_RATES", 3)
    argv = [
        *(f"small={tmp_path}/run", "--out", str(tmp_path / "out")),
        *("--domains", f"own=text:{tmp_path}/own.txt", f"other=text:{tmp_path}/other.txt"),
        *("--training", f"text:{tmp_path}/own.txt", "--pieces", "2", "--tokens", "64"),
        *("--tuning", "32", "--lengths", "16", "--retention-tokens", "32", "--parts", "updates"),
    ]
    measure, calls = study_cells.DynamicCells.measure, []

    def stopping(self, subject, domain, choices):
        calls.append(choices)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, subject, domain, choices)

    monkeypatch.setattr(study_cells.DynamicCells, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        main(argv)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/cells").iterdir()}
    main(argv)
    for path, changed in before.items():
        assert path.stat().st_mtime_ns == changed
    record = read_result(tmp_path / "out")
    rows = record["result"]["rows"]
    assert [(one["name"], one["domain"]) for one in rows] == [
        (name, domain) for name in ("update every 1",) for domain in ("own", "other")
    ]
    for one in rows:
        assert one["gain"] == pytest.approx(one["static"] - one["bits_per_byte"], rel=0.1)
        assert one["low"] <= one["gain"] <= one["high"]
        assert one["FLOPs"] > one["static_FLOPs"]
    assert record["tables"][0]["title"] == "Dynamic evaluation: updates"


def test_plots_and_the_amount_of_shift(tmp_path: Path):
    rows = [
        {
            "part": "grid",
            "name": f"{kind} {length}",
            "model": "m",
            "domain": domain,
            "rate": 0.1,
            "static": static,
            "bits_per_byte": static - gain * length,
            "FLOPs": 10.0 * length,
            "static_FLOPs": 5.0,
            "gain": gain * length,
            "low": None,
            "high": None,
            "forgotten": 0.0,
            "stopped": None,
            "by_position": [{"first": 1, "gain": 0.0}, {"first": 32, "gain": gain}],
        }
        for domain, static, gain in (("own", 2.0, 0.001), ("far", 3.0, 0.02))
        for kind in ("all sgd", "mlp adam")
        for length in (1, 4)
    ]
    shift = gain_by_shift(rows)
    assert shift == {"own": [(0.0, -0.004)], "far": [(1.0, -0.08)]}
    content = summary(rows)
    assert set(content["plots"]) == {
        *(f"{kind}_m_{domain}" for kind in ("pareto", "gain_by_position") for domain in shift),
        "gain_by_shift",
    }
    for draw in content["plots"].values():
        draw(tmp_path / "plot.svg")
    assert math.isclose(content["result"]["rows"][0]["gain"], 0.001)


def test_what_is_refused():
    common: dict = {"models": ("a",), "out": Path("b"), "training": ("c",)}
    wrong: tuple[tuple[dict, str], ...] = (
        ({"domains": ("a=b", "c=d"), "parts": ("all",)}, "--parts all: expected some of grid"),
        ({"domains": ("a=b",)}, "expected NAME=SOURCE of two domains"),
    )
    for fields, message in wrong:
        with pytest.raises(UserError, match=message):
            study(StudyArguments(**(common | fields)))


def test_static_scoring_is_measured_once_for_all_lengths():
    lengths = {
        dynamic_study.static_of(DynamicConfig(segment_length=n)).segment_length for n in (8, 64)
    }
    assert lengths == {256}
