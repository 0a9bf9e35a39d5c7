# SPDX-License-Identifier: Apache-2.0
"""Numbers, table and plots of cells that were made up."""

from pathlib import Path

import pytest

from eval.tasks.synthetic import Cell
from eval.tasks.synthetic_report import plots, steps_to_solve, summary, table
from eval.tasks.synthetic_task import TASKS

TASK = TASKS["selective_copying"]


def cell(model: str, seed: int, right: float, accuracy: list[float]) -> Cell:
    solved = {"1024": [160, 10, 10], "4096": [round(160 * right), 5, 10]}
    return Cell(
        model=model,
        seed=seed,
        steps=[100, 200, 300],
        loss=[2.0, 1.0, 0.5],
        accuracy=accuracy,
        solved=solved,
        seconds=1.0,
    )


CELLS = [
    cell("hawk", 0, 1.0, [0.1, 0.99, 1.0]),
    cell("hawk", 1, 0.5, [0.1, 0.2, 0.3]),
    cell("mqa", 0, 1.0, [1.0, 0.5, 1.0]),
]


def test_steps_to_solve_are_those_from_which_it_stays_solved():
    assert [steps_to_solve(one) for one in CELLS] == [200, None, 300]


def test_summary():
    given = summary(CELLS, TASK)
    assert given["accuracy"] == {
        "hawk": {"1024": [1.0, 1.0], "4096": [1.0, 0.5]},
        "mqa": {"1024": [1.0], "4096": [1.0]},
    }
    assert given["steps_to_solve"] == {"hawk": [200, None], "mqa": [300]}
    assert len(given["cells"]) == 3


def test_table():
    title, _, rows = table(CELLS, TASK)
    assert "Trained at 1,024 tokens" in title
    assert rows == [
        ("hawk", 2, "1 of 2", 200, 1.0, 1024, 4096, pytest.approx(0.75)),
        ("mqa", 1, "1 of 1", 300, 1.0, 4096, 4096, 1.0),
    ]


def test_plots_have_titles_and_units(tmp_path: Path):
    for name, draw in plots(CELLS, "selective_copying", TASK).items():
        draw(tmp_path / f"{name}.svg")
        text = (tmp_path / f"{name}.svg").read_text()
        assert "hawk" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.svg", "learning.svg"]
