# SPDX-License-Identifier: Apache-2.0
"""The table of products and memory: what a cell counts on this machine, and a line."""

import dataclasses

import pytest

from recurrentgemma.errors import UserError
from tests.compiling import QUICKLY, compiling
from training.planning import remat_report
from training.planning.remat_report import HERE, Cell


def test_a_cell_counts_the_products_of_every_layer():
    small = dataclasses.replace(
        remat_report.config("none", "bfloat16"),
        width=32,
        lru_width=32,
        mlp_width=64,
        num_heads=2,
        num_gate_blocks=1,
        vocab_size=64,
    )
    with compiling(**{QUICKLY: True}):
        none, wide = (
            remat_report.measure(dataclasses.replace(small, remat=remat), HERE, 1, 32)
            for remat in ("none", "wide")
        )
    assert wide.products - none.products == 4 * 2  # the gates of the recurrent layers
    assert none.repeated == wide.repeated == 0
    assert none.peak > 0


def test_a_line():
    cells = [Cell(847, 0, 2**30), Cell(1071, 3, 2**20)]
    assert (
        remat_report.line("mlp", cells) == "| `mlp` | 847 | 1,024 | 1,071 (3 by the compiler) | 1 |"
    )


def test_an_unknown_topology():
    with pytest.raises(UserError, match="v9:2x2"):
        remat_report.measure(remat_report.config("none", "float32"), "v9:2x2", 1, 32)
