# SPDX-License-Identifier: Apache-2.0
"""Pictures of things and their names, read from packages in their formats."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recurrentgemma.errors import UserError
from tests.training.data.pairs.small_pairs import write_tar
from training.recipes.sparc import cutouts as module
from training.recipes.sparc.cutouts import cutouts, thing


def picture(format: str, alpha: int = 200) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (6, 4), (10, 20, 30, alpha)).save(out, format=format, lossless=True)
    return out.getvalue()


def put(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str, content: bytes) -> None:
    """A package of another content, whose hash is the expected one."""
    file, _ = getattr(module, name)
    (cache / file).write_bytes(content)
    monkeypatch.setattr(module, name, (file, hashlib.sha256(content).hexdigest()))


def tar(folder: Path, files: dict[str, bytes], mode: str) -> bytes:
    return write_tar(folder / "scratch.tar", files, mode).read_bytes()


def deb(content: bytes) -> bytes:
    """An `ar` archive with a data.tar of this content."""
    header = f"{'data.tar.xz':16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
    return b"!<arch>\n" + header.encode() + content


LABELS = [
    {"label": "red apple", "hexcode": "1F34E", "group": 4},
    {"label": "airplane", "hexcode": "2708-FE0F", "group": 5},
    {"label": "face with hat", "hexcode": "1F920", "group": 0},
    {"label": "service dog", "hexcode": "1F415-200D-1F9BA", "group": 3},
    {"label": "o'clock!", "hexcode": "1F550", "group": 5},
    {"label": "8ball", "hexcode": "1F3B1", "group": 6},
]


def test_fluent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    labels = {"package/en/data.json": json.dumps(LABELS).encode()}
    put(monkeypatch, tmp_path, "LABELS", tar(tmp_path, labels, "w:gz"))
    names = ("1f34e", "2708-fe0f", "1f920", "1f415-200d-1f9ba", "1f550", "1f3b1")
    files = {f"package/assets/{name}.webp": picture("WEBP") for name in names}
    put(monkeypatch, tmp_path, "FLUENT", tar(tmp_path, files, "w:gz"))
    given = cutouts("fluent", tmp_path)
    assert [(one.name, one.group) for one in given] == [
        ("airplane", "travel and places"),
        ("oclock", "travel and places"),
        ("red apple", "food"),
    ]
    np.testing.assert_array_equal(given[0].pixels_HW4, np.full((4, 6, 4), (10, 20, 30, 200)))


def test_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = "./usr/share/tuxpaint/stamps/animals"
    files = {
        f"{folder}/frog.png": picture("PNG"),
        f"{folder}/frog.txt": b"A frog.\nde.utf8=Ein Frosch.",
        f"{folder}/frog-1.png": picture("PNG"),  # has no text
        f"{folder}/toad.txt": b"A toad.",  # has no picture
    }
    put(monkeypatch, tmp_path, "STAMPS", deb(tar(tmp_path, files, "w:xz")))
    assert [(one.name, one.group) for one in cutouts("stamps", tmp_path)] == [("frog", "animals")]


def test_clipart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    titles = {
        "animals/frog": "A frog",
        "animals/deep/newt": "newt",
        "shapes/star": "star",  # no thing
        "food/soup": "Soup of the day",  # a sentence
        **{f"tools/{number}": "Tools Theme" for number in range(4)},  # a collection
    }
    metadata = "<svg xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:title>{}</dc:title></svg>"
    folder = "./usr/share/openclipart"
    svg = {f"{folder}/svg/{n}.svg": metadata.format(t).encode() for n, t in titles.items()}
    png = {f"{folder}/png/{name}.png": picture("PNG") for name in titles}
    put(monkeypatch, tmp_path, "CLIPART_SVG", deb(tar(tmp_path, svg, "w:xz")))
    put(monkeypatch, tmp_path, "CLIPART_PNG", deb(tar(tmp_path, png, "w:xz")))
    monkeypatch.setattr(module, "CLIPART_SIDE", 3)
    given = cutouts("clipart", tmp_path)
    assert [(one.name, one.group) for one in given] == [("frog", "animals"), ("newt", "animals")]
    assert given[0].pixels_HW4.shape == (2, 3, 4)


def test_noto():
    """The package itself: there is no other font of this kind to read."""
    try:
        given = {one.name: one for one in cutouts("noto")}
    except UserError as error:
        if "could not be fetched" in str(error):
            pytest.skip(str(error))
        raise
    assert len(given) == 840
    assert given["lemon"].pixels_HW4.shape == (128, 136, 4)
    there_HW = given["lemon"].pixels_HW4[..., 3] > 128
    assert 0.2 < there_HW.mean() < 0.9
    red, green, blue = given["lemon"].pixels_HW4[there_HW][:, :3].mean(0)
    assert min(red, green) > 1.5 * blue


def test_names():
    assert thing("A frog.") == "frog"
    assert thing("An X-ray") == "x ray"
    assert thing("four o\u2019clock") == "four oclock"
    assert thing("8ball") == ""
    assert thing("pi\u00f1ata") == ""


def test_no_such_style():
    with pytest.raises(UserError, match=r"style='notto'.*did you mean.*expected one of noto"):
        cutouts("notto")


def test_a_package_that_is_another(tmp_path: Path):
    (tmp_path / module.FLUENT[0]).write_bytes(b"other")
    with pytest.raises(UserError, match="it is not the published file"):
        cutouts("fluent", tmp_path)
