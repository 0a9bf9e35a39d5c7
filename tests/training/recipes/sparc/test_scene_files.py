# SPDX-License-Identifier: Apache-2.0
"""Scenes that are written are read back as pairs, with their masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recurrentgemma.errors import UserError
from tests.training.recipes.sparc.things import things
from training.data.pairs import open_pairs
from training.data.pairs.pictures import square
from training.recipes.sparc.scene_files import write_scenes
from training.recipes.sparc.scenes import SceneConfig, Scenes


def test_written_and_read(tmp_path: Path):
    scenes, counts = Scenes(things(), SceneConfig(side=32)), []
    write_scenes(scenes, tmp_path / "scenes", 3, progress=counts.append)
    assert counts == [1, 2, 3]
    pairs = open_pairs(f"folder:{tmp_path}/scenes")
    lines = (tmp_path / "scenes/metadata.jsonl").read_text().splitlines()
    assert len(pairs) == len(lines) == 3
    for number, line in enumerate(map(json.loads, lines)):
        scene = scenes.scene(number)
        assert pairs[number].caption == scene.caption
        np.testing.assert_array_equal(square(pairs[number].image, 32), scene.image_SS3)
        with Image.open(tmp_path / "scenes" / line["masks"]) as picture:
            index_SS = np.asarray(picture)
        for place, (part, thing) in enumerate(zip(scene.parts, line["things"], strict=True), 1):
            np.testing.assert_array_equal(index_SS == place, part.mask_SS)
            assert (thing["name"], thing["colour"]) == (part.name, part.colour)
    with pytest.raises(UserError, match=r"metadata.jsonl is there already"):
        write_scenes(scenes, tmp_path / "scenes", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_scenes(scenes, tmp_path / "file", 1)
