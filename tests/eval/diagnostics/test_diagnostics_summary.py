# SPDX-License-Identifier: Apache-2.0
"""Tables and result of measured parts: each number in its place, and what is not there left out."""

import math

import pytest

from eval.diagnostics.diagnostics_summary import summary
from tests.training.small_rows import CONFIG

NUMBERS = {
    "blocks.0/pca_rank": 7.0,
    "blocks.0/norm": 2.0,
    "blocks.0/dead_units": 0.25,
    "blocks.0/decay": 0.9,
    "blocks.1/pca_rank": math.nan,
    "final/pca_rank": 5.0,
    "gradients/negative_share": 0.5,
}
PARTS = {
    "layers": {"tokens": 99, "numbers": NUMBERS},
    "weights": {"numbers": {"weight_norm/blocks.0/a": 3.0}},
}


def test_tables_have_the_numbers():
    given = summary(PARTS, CONFIG, (0, 1))
    tables = {table.title: table for table in given["tables"]}
    (ranks,) = (table for title, table in tables.items() if title.startswith("Ranks"))
    assert [row[:2] for row in ranks.rows] == [
        ["blocks.0", 7.0],
        ["blocks.1", None],
        ["final", 5.0],
    ]
    assert ranks.rows[0][-1] == 2.0
    assert tables["The whole model"].rows == [["gradients: negative share", 0.5]]
    assert tables["Norms of matrices"].rows == [["blocks.0/a", 3.0]]
    assert given["result"]["blocks.1/pca_rank"] is None
    assert set(given["plots"]) == {"ranks", "units", "rg_lru"}
    assert "probe" not in given["result"]


def test_the_probe_and_the_hessian_are_drawn(tmp_path):
    probe = {"rows": 2, "loss": 3.0, "fresh_loss": 2.5, "lost": 0.5}
    curves = {"losses": [4.0, 3.0], "fresh_losses": [4.0, 2.0]}
    hessian = {"top": 9.0, "bottom": -1.0, "at": [-1.0, 9.0], "density": [0.0, 1.0]}
    given = summary(PARTS | {"probe": probe | curves, "curvature": hessian}, CONFIG, (0, 1))
    assert given["result"]["probe"] == probe
    assert given["result"]["hessian"] == {"top": 9.0, "bottom": -1.0}
    for name in ("probe", "hessian", "ranks"):
        given["plots"][name](tmp_path / f"{name}.svg")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    rows = dict(given["tables"][-2].rows)
    assert rows["probe: loss of plasticity"] == pytest.approx(0.5)
    assert rows["Hessian: top eigenvalue"] == 9.0
