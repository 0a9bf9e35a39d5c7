# SPDX-License-Identifier: Apache-2.0
"""`griffin eval throughput`: cell by cell, to its end, with tables and plots."""

import json

import pytest

from eval import throughput
from eval.results import read_result
from eval.throughput_cli import main
from kernels.measure import bench
from recurrentgemma.errors import UserError

MODELS = ["griffin_100m", "mqa_100m"]


@pytest.fixture
def timed(monkeypatch):
    """Cells whose models were timed; times are made up, and no model is made."""
    asked = []

    def measure(models, cell, *, tokens, rounds):
        asked.append(cell)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {model.name: [0.01 * (i + 1)] * rounds for i, model in enumerate(models)}

    def model(path, arguments):
        config = throughput_preset(path)
        return throughput.Measured(path, config, None)

    from recurrentgemma.presets import preset as throughput_preset

    monkeypatch.setattr(throughput, "measure", measure)
    monkeypatch.setattr("eval.throughput_cli._model", model)
    monkeypatch.setattr(bench, "limits", lambda dtype, platform: (1e9, 1e9))
    return asked


def test_it_goes_on_where_it_was_stopped(timed, tmp_path, capsys):
    command = [*MODELS, "--context", "0", "4096", "--answer", "512", "--batch", "1", "16"]
    command += ["--rounds", "2", "--out", str(tmp_path / "speed"), "--json"]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert main(command) == 0
    cells = [(cell.batch, cell.context, cell.answer) for cell in timed]
    assert cells[3:] == [*cells[2:3], (16, 4096, 0), (1, 0, 512), (16, 0, 512)]
    record = read_result(tmp_path / "speed")
    assert len(record["result"]["rows"]) == 12
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == record["result"]
    after, answers = record["tables"]
    assert after["rows"][-1][:4] == ["mqa_100m", 16, 4096, 20.0]
    assert answers["rows"] == [["griffin_100m", 512, 16, 1600.0], ["mqa_100m", 512, 16, 800.0]]
    for name in record["plots"]:
        assert (tmp_path / "speed" / name).stat().st_size > 1000
    assert len(record["plots"]) == 3
    assert main(command) == 0  # is over already
    assert len(timed) == 7


def test_neither_a_preset_nor_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"grifin_100m.*nor is it a preset \(did you mean 'griffin_100m'\?\)"
    with pytest.raises(UserError, match=message):
        main(["grifin_100m", "--context", "0"])
    (tmp_path / "griffin").mkdir()
    with pytest.raises(UserError) as caught:
        main(["griffin", "--context", "0"])
    assert "preset" not in str(caught.value)


def test_nothing_to_measure_is_refused():
    with pytest.raises(UserError, match="there is nothing to measure: give --context or --answer"):
        main(["griffin_100m", "--context", "--answer"])
    with pytest.raises(UserError, match="there is no model to measure: name presets"):
        main([])
