# SPDX-License-Identifier: Apache-2.0
"""Finished cells are found again by their name and their settings, and by nothing less."""

import pytest

from eval.cells import Cells
from recurrentgemma.errors import UserError


def test_a_cell_is_found_by_its_name_and_its_settings(tmp_path):
    folder = tmp_path / "new" / "cells"
    assert Cells(folder).take("a-seed0", {"rate": 0.1}) is None
    kept = Cells(folder).keep("a-seed0", {"rate": 0.1}, {"curve": (1, 2)})
    assert kept == {"rate": 0.1, "curve": [1, 2]}
    cells = Cells(folder)
    assert cells.take("a-seed0", {"rate": 0.1}) == kept
    assert cells.take("a-seed0", {"rate": 0.2}) is None
    assert cells.take("a-seed1", {"rate": 0.1}) is None
    assert cells.all() == [kept]


def test_a_damaged_cell_is_named(tmp_path):
    cells = Cells(tmp_path)
    cells.keep("a", {}, {"loss": 1.0})
    path = next(tmp_path.iterdir())
    path.write_text("{", "utf-8")
    with pytest.raises(UserError, match=rf"{path.name} is damaged .*: remove it"):
        cells.take("a", {})
