# SPDX-License-Identifier: Apache-2.0
"""Rows of Parquet: bytes of a file, or a struct that holds them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recurrentgemma.errors import UserError
from tests.training.data.pairs.small_pairs import CAPTIONS, png
from training.data.pairs import open_pairs
from training.data.pairs.pair import Pair


def test_pairs_by_number(tmp_path: Path):
    rows = {
        "image": [{"bytes": png(n), "path": None} for n in range(3)],
        "file": [png(n) for n in range(3)],
        "text": [CAPTIONS[0], CAPTIONS[1], None],
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pairs = open_pairs(f"parquet:{tmp_path}/*.parquet")
    assert len(pairs) == 3
    assert pairs[1] == Pair(png(1), CAPTIONS[1])
    assert open_pairs(f"parquet:{tmp_path}/a.parquet?image=file")[0] == Pair(png(0), CAPTIONS[0])
    with pytest.raises(UserError, match=r"row 2 of row group 0: text is no text"):
        pairs[2]
    with pytest.raises(UserError, match="text holds a str, expected the bytes of a file"):
        open_pairs(f"parquet:{tmp_path}/a.parquet?image=text&caption=text")[0]
    with pytest.raises(UserError, match=r"no column 'label'; it has .*\?caption=NAME"):
        open_pairs(f"parquet:{tmp_path}/a.parquet?caption=label")
