# SPDX-License-Identifier: Apache-2.0
"""`griffin eval synthetic` runs each model and seed, and shows and draws what they can do."""

import dataclasses
import json
from pathlib import Path

import pytest

from eval.tasks import synthetic
from eval.tasks.synthetic import Cell
from eval.tasks.synthetic_cli import MODELS, SyntheticArguments, main
from eval.tasks.synthetic_training import STUDY
from recurrentgemma.errors import UserError


def test_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    cells = []

    def run_cell(model, seed, task, choices, *, lengths, sequences, results, bar, before):
        assert choices == dataclasses.replace(STUDY["induction_heads"], steps=400)
        assert before == 400 * len(cells)
        solved = {str(length): [sequences - 1, sequences - 1, sequences] for length in lengths}
        cell = Cell(
            model=model,
            seed=seed,
            steps=[100],
            loss=[1.0],
            accuracy=[0.5],
            solved=solved,
            seconds=1,
        )
        cells.append(cell)
        return cell

    monkeypatch.setattr(synthetic, "run_cell", run_cell)
    argv = "induction_heads --models hawk mqa --seeds 2 --steps 400 --sequences 4 --json"
    argv += f" --lengths 256 16384 --out {tmp_path / 'out'}"
    main(argv.split())
    shown = capsys.readouterr().out
    result = json.loads(shown.splitlines()[-1])
    assert result["accuracy"] == {
        "hawk": {"256": [0.75, 0.75], "16384": [0.75, 0.75]},
        "mqa": {"256": [0.75, 0.75]},
    }
    assert [(cell.model, cell.seed) for cell in cells] == [
        *(("hawk", 0), ("hawk", 1), ("mqa", 0), ("mqa", 1))
    ]
    assert "Trained at 256 tokens" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".lock", "result.json", "learning.svg", "accuracy.svg"}
    main(argv.split())
    assert len(cells) == 4, "it is finished"


def test_options_stand_in_place_of_the_studys():
    arguments = SyntheticArguments(task="selective_copying", steps=400)
    study = STUDY["selective_copying"]
    assert arguments.training() == dataclasses.replace(study, steps=400)
    assert MODELS == ("griffin", "hawk", "mqa")
    with pytest.raises(UserError, match="seeds=0: expected at least 1"):
        main(["selective_copying", "--seeds", "0"])
    with pytest.raises(UserError, match="lengths=3: expected at least 4"):
        main(["induction_heads", "--lengths", "3"])
