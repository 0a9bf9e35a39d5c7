# SPDX-License-Identifier: Apache-2.0
"""Images in files, named by the lines of metadata.jsonl."""

import json
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from tests.training.data.pairs.small_pairs import CAPTIONS, png
from training.data.pairs import open_pairs
from training.data.pairs.pair import Pair


def test_pairs_by_number(tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/0.png").write_bytes(png(0))
    lines = [
        {"file_name": "train/0.png", "text": CAPTIONS[0], "title": "another"},
        {"file_name": "train/1.png", "text": CAPTIONS[1]},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pairs = open_pairs(f"folder:{tmp_path}")
    assert len(pairs) == 2
    assert pairs[0] == Pair(png(0), CAPTIONS[0])
    assert open_pairs(f"folder:{tmp_path}?caption=title")[0].caption == "another"
    with pytest.raises(UserError, match=r"metadata.jsonl:2: train/1.png cannot be read"):
        pairs[1]
    with pytest.raises(UserError, match=r"has no field 'title'.*\?caption=NAME"):
        open_pairs(f"folder:{tmp_path}?caption=title")[1]
    with pytest.raises(UserError, match=r"there is no .*metadata.jsonl: expected a line for each"):
        open_pairs(f"folder:{tmp_path}/train")
