# SPDX-License-Identifier: Apache-2.0
"""`griffin recipe sparc`: scenes as files, a small model, and where it sees a word."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from griffin_lm import main as griffin
from tests.training.recipes.sparc.test_scene_study import ARM
from tests.training.recipes.sparc.things import things
from training.recipes.sparc import commands, scene_arrays, scene_study


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a package's pictures, and of a model for minutes."""
    for module in (scene_arrays, scene_study):
        monkeypatch.setattr(module, "things_of", lambda style, count=None: tuple(things()))
    small = lambda **given: dataclasses.replace(ARM, **given)  # noqa: E731
    monkeypatch.setattr(scene_study, "SceneArm", small)
    scene_arrays.scene_arrays.cache_clear()
    scene_study.vocabulary.cache_clear()


def test_from_scenes_to_a_heat_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scenes, model = tmp_path / "scenes", tmp_path / "model"
    written = ["recipe", "sparc", "--make-scenes", str(scenes), "--count", "3", "--side", "32"]
    assert griffin(written) == 0, capsys.readouterr()
    assert "3 scenes, such as 'a" in capsys.readouterr().out
    assert griffin(written) == 2
    assert "is there already" in capsys.readouterr().err
    trained = ["recipe", "sparc", "--train", str(model), "--steps", "10"]
    assert griffin(trained) == 0, capsys.readouterr()
    assert "on test scenes i2t R@1" in capsys.readouterr().out
    assert griffin(trained) == 2
    assert "has a model already" in capsys.readouterr().err
    image = scenes / "images/00001.png"
    asked = ["recipe", "sparc", "--query", "a red egg", str(image), "--model", str(model)]
    asked += ["--out", str(tmp_path)]
    assert griffin(asked) == 0, capsys.readouterr()
    shown = capsys.readouterr().out
    assert "00001.query.png: as it is, red, egg" in shown
    assert "  egg: most at " in shown
    with Image.open(tmp_path / "00001.query.png") as picture:
        assert picture.size == (3 * commands.SHOWN_SIDE, commands.SHOWN_SIDE)
    (tmp_path / "text.png").write_text("none")
    for words, file, problem in (
        ("a zebra", image, "'zebra' is no word of this vocabulary"),
        ("red", tmp_path / "text.png", "text.png: no image that can be decoded"),
        ("red", tmp_path / "absent.png", "absent.png cannot be read"),
    ):
        assert griffin([*asked[:3], words, str(file), *asked[5:]]) == 2
        assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--train", "a", "--make-scenes", "b"], "expected one of --make-scenes, --train"),
        (["--query", "red"], "--query wants the files of images after it"),
        (["--train", "a", "b.png"], "b.png: images are for --query"),
        (["--make-scenes", "a", "--split", "dev"], "--split dev: expected one of train"),
        (["--train", "a", "--pairs.side", "32"], "options without --pairs.source"),
        (
            ["--make-scenes", "a", "--pairs.source", "folder:b"],
            "--pairs.source folder:b: expected --train FOLDER, too",
        ),
        (["--make-scenes", "a", "--count", "0"], "--count 0: expected at least 1"),
        (["--make-scenes", "a", "--mixing", "1"], "--mixing 1 has no effect without --train"),
        (["--train", "a", "--mixing", "9"], "mixing=9: expected 0 to 1, the blocks"),
    ],
)
def test_what_is_not_said_right(arguments: list[str], problem: str, capsys):
    assert griffin(["recipe", "sparc", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_a_map_is_red_where_it_is_one():
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    tiles = commands.beside(np.full((8, 8, 3), 100, np.uint8), [heat])
    assert tiles.shape == (8, 16, 3)
    np.testing.assert_array_equal(tiles[:, :8], np.full((8, 8, 3), 100))
    np.testing.assert_array_equal(tiles[2, 12], commands.HOT)
    np.testing.assert_array_equal(tiles[0, 8], [70, 70, 70])
