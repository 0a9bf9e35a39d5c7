# SPDX-License-Identifier: Apache-2.0
"""Ends of runs, with numbers that are missing."""

import pytest

from training.recipes.pfo.conclusions import at_the_end, conclude_agents, ends


def cell(**curves):
    names = ("return", "pca_rank", "pre_activation_norm", "dead", "excess_ratio")
    return {"measured": {name: curves.get(name, [1.0] * 40) for name in names}, "steps": 4000}


def test_the_last_twentieth():
    assert at_the_end(cell(dead=[0.0] * 38 + [3.0, 5.0]), "dead") == 4
    assert at_the_end(cell(excess_ratio=[2.0] * 20 + [None] * 20), "excess_ratio") == 2
    nothing = at_the_end(cell(excess_ratio=[None] * 40), "excess_ratio")
    assert nothing != nothing  # nan


def test_an_interval_over_the_seeds_that_have_it():
    cells = [cell(dead=[2.0] * 40), cell(dead=[None] * 40), cell(dead=[4.0] * 40)]
    assert ends(cells, "dead")[::3] == (3, 2)
    assert ends([cell(dead=[None] * 40)], "dead").count == 0


def test_verdict_and_plots(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed here")
    arms = {
        "none": [cell(excess_ratio=[None, *[2.0] * 39]), cell()],
        "PFO": [cell(pre_activation_norm=[0.5] * 40)] * 2,
    }
    concluded = conclude_agents(arms)
    assert "PFO: return 1, rank 1, norm 0.5, dead 1, excess ratio 1" in concluded.verdict
    concluded.plots["excess_ratio"](tmp_path / "plot.svg")
    assert "excess ratio" in (tmp_path / "plot.svg").read_text()
