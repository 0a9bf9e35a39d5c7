# SPDX-License-Identifier: Apache-2.0
"""`griffin eval curves`: a table, plots and numbers of several runs."""

import json

import pytest

from eval.results import read_result
from recurrentgemma.errors import UserError
from tests.training.observe.test_curves import write_run
from training.observe.curves_cli import main


def test_two_runs(tmp_path, capsys):
    folders = [str(write_run(tmp_path / name)) for name in ("one", "two")]
    assert main([*folders, "--out", str(tmp_path / "out"), "--json"]) == 0
    record = read_result(tmp_path / "out")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == record["result"]
    [table] = record["tables"]
    assert table["rows"][0] == ["one", 10, 1000, 0.5, 5.1, 5.1, 1000, 9.5]
    assert record["result"]["two"]["held_out"]["y"] == [5.6, 5.1]
    for name in ("training.svg", "held_out.svg"):
        plot = (tmp_path / "out" / name).read_text()
        assert "tokens learned from (millions)" in plot
        assert "two" in plot


def test_what_is_refused(tmp_path):
    one = str(write_run(tmp_path / "one"))
    (tmp_path / "other").mkdir()
    namesake = str(write_run(tmp_path / "other" / "one"))
    in_nats = str(write_run(tmp_path / "nats", bits=False))
    for arguments, message in (
        ([], "there is no run: name folders"),
        ([one, namesake], "two runs have one name"),
        ([one, in_nats], "one has bits per byte, nats has nats per token"),
        ([one, "--points", "1"], "--points is 1: expected at least 2"),
    ):
        with pytest.raises(UserError, match=message):
            main(arguments)
