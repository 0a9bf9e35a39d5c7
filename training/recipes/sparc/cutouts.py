# SPDX-License-Identifier: Apache-2.0
"""Pictures of single things on nothing, with their names, out of packages: what scenes are made of.

    noto      845 emoji of the Debian package fonts-noto-color-emoji (OFL-1.1), 136 x 128
    fluent    the same things in another style: npm's @lobehub/fluent-emoji-3d (MIT), 256 x 256
    stamps    Debian's tuxpaint-stamps-default (GPL-2), 161 MB: photographs and drawings
    clipart   Debian's openclipart-png and openclipart-svg (public domain), 156 MB: drawings

Names of emoji are the English labels of npm's emojibase-data (MIT), of animals and plants, food,
travel and places, activities and objects. Packages are fetched by the registry's own client when
first needed and kept in the cache (training/data/packages.py).
"""

import functools
import io
import json
import posixpath
import re
import struct
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from recurrentgemma.errors import MissingExtra, UserError, did_you_mean
from training.data.packages import apt_download, fetch, npm_download
from training.data.pairs.pictures import pillow
from training.recipes.vision.packaged import deb_member

NOTO = (
    "fonts-noto-color-emoji_2.042-0+deb12u1_all.deb",
    "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
)
NOTO_FONT = "./usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LABELS = (
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
FLUENT = (
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
STAMPS = (
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
STAMPS_FOLDER = "./usr/share/tuxpaint/stamps/"
CLIPART_PNG = (
    "openclipart-png_1%3a0.18+dfsg-19_all.deb",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
)
CLIPART_SVG = (
    "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)
CLIPART_FOLDER = "./usr/share/openclipart/"
CLIPART_GROUPS = (
    *("animals", "buildings", "containers", "decorations", "education", "electronics", "food"),
    *("office", "people", "plants", "recreation", "tools", "transportation"),
)  # not computer, geography, shapes, signs_and_symbols, special: icons, maps, stars, flags
COLLECTION = 3  # files; a title that more of them have names a collection, not a thing
CLIPART_SIDE = 256  # pixels, scaled down to
CLIPART_AREA = 4_000_000  # pixels; the few larger files take longer than all others
DC_TITLE = "{http://purl.org/dc/elements/1.1/}title"
REMEDY = "or make scenes of another style"
GROUPS = {
    3: "animals and plants",
    4: "food",
    5: "travel and places",
    6: "activities",
    7: "objects",
}
VARIATION = "FE0F"  # a code point that asks for the picture; fonts and files leave it out, or not


class Cutout(NamedTuple):
    """A thing. pixels_HW4: uint8, the fourth channel says how much of it is there."""

    name: str
    group: str
    pixels_HW4: np.ndarray


def cutouts(style: str, cache: Path | None = None) -> list[Cutout]:
    """All of a style, sorted by name; of things with one name the first.

    Raises UserError: there is no such style, or its packages cannot be fetched.
    """
    if style not in STYLES:
        near = did_you_mean(style, STYLES)
        raise UserError(f"style={style!r}{near}: expected one of {', '.join(STYLES)}")
    named: dict[str, Cutout] = {}
    for one in STYLES[style](cache):
        named.setdefault(one.name, one)
    return [named[name] for name in sorted(named)]


def noto(cache: Path | None = None) -> Iterator[Cutout]:
    """Bitmaps of the font, by their code points."""
    package = fetch(*NOTO, apt_download, remedy=REMEDY, cache=cache)
    with tarfile.open(fileobj=io.BytesIO(deb_member(package, "data.tar")), mode="r:xz") as tar:
        raw = _file(tar, NOTO_FONT)
    try:
        from fontTools.ttLib import TTFont
    except ImportError:
        raise MissingExtra(
            "pictures in a font are read by fontTools: run `pip install 'griffin-lm[vision]'`"
        ) from None
    font = TTFont(io.BytesIO(raw))
    glyphs, bitmaps = font.getBestCmap() or {}, font["CBDT"].strikeData[0]
    for label in _labels(cache):
        glyph = glyphs.get(label.code_point)
        if glyph in bitmaps:
            yield Cutout(label.name, label.group, _pixels(bitmaps[glyph].imageData))


def fluent(cache: Path | None = None) -> Iterator[Cutout]:
    """Files of the package, by their code points."""
    npm = npm_download("@lobehub/fluent-emoji-3d", "1.1.0")
    package = fetch(*FLUENT, npm, remedy=REMEDY, cache=cache)
    with tarfile.open(package, "r:gz") as tar:
        files = {
            posixpath.splitext(posixpath.basename(member.name))[0]: _file(tar, member.name)
            for member in tar.getmembers()
            if member.name.endswith(".webp")
        }
    for label in _labels(cache):
        code = f"{label.code_point:04x}"
        file = files.get(code) or files.get(f"{code}-{VARIATION.lower()}")
        if file is not None:
            yield Cutout(label.name, label.group, _pixels(file))


def stamps(cache: Path | None = None) -> Iterator[Cutout]:
    """Each PNG beside which a text names the thing, in a sentence such as `A frog.`"""
    package = fetch(*STAMPS, apt_download, remedy=REMEDY, cache=cache)
    packed = io.BytesIO(deb_member(package, "data.tar"))
    with tarfile.open(fileobj=packed, mode="r|*") as tar:
        files = {
            member.name.removeprefix(STAMPS_FOLDER): _file(tar, member)
            for member in tar
            if member.name.endswith((".png", ".txt"))
        }
    for path in sorted(files):
        stem, suffix = posixpath.splitext(path)
        text = files.get(f"{stem}.txt")
        if suffix == ".png" and text is not None:
            name = thing(text.decode("utf-8", "replace").splitlines()[0])
            if name:
                yield Cutout(name, path.partition("/")[0], _pixels(files[path]))


def clipart(cache: Path | None = None) -> Iterator[Cutout]:
    """Each PNG whose SVG has the title of a thing: one or two words, not of a whole collection."""
    of_svg = fetch(*CLIPART_SVG, apt_download, remedy=REMEDY, cache=cache)
    packed = io.BytesIO(deb_member(of_svg, "data.tar"))
    named: dict[str, str] = {}
    with tarfile.open(fileobj=packed, mode="r|*") as tar:
        for member in tar:
            place = member.name.removeprefix(f"{CLIPART_FOLDER}svg/")
            if place.endswith(".svg") and _group(place) in CLIPART_GROUPS and member.isfile():
                title = next(ElementTree.fromstring(_file(tar, member)).iter(DC_TITLE), None)
                name = thing(title.text or "") if title is not None else ""
                if name and len(name.split()) <= 2:
                    named[posixpath.splitext(place)[0]] = name
    files = Counter(named.values())
    of_png = fetch(*CLIPART_PNG, apt_download, remedy=REMEDY, cache=cache)
    packed = io.BytesIO(deb_member(of_png, "data.tar"))
    with tarfile.open(fileobj=packed, mode="r|*") as tar:
        for member in tar:
            place = posixpath.splitext(member.name.removeprefix(f"{CLIPART_FOLDER}png/"))[0]
            if member.isfile() and place in named and files[named[place]] <= COLLECTION:
                file = _file(tar, member)
                width, height = struct.unpack_from(">2I", file, 16)  # of a PNG's header
                if width * height > CLIPART_AREA:
                    continue
                with pillow().open(io.BytesIO(file)) as picture:
                    rgba = picture.convert("RGBA")
                rgba.thumbnail((CLIPART_SIDE, CLIPART_SIDE))
                yield Cutout(named[place], _group(place), np.asarray(rgba, np.uint8))


STYLES: dict[str, Callable[[Path | None], Iterator[Cutout]]] = {
    "noto": noto,
    "fluent": fluent,
    "stamps": stamps,
    "clipart": clipart,
}


def _group(place: str) -> str:
    return place.partition("/")[0]


class Label(NamedTuple):
    """What an emoji of one code point is called."""

    name: str
    group: str
    code_point: int


def _labels(cache: Path | None) -> list[Label]:
    package = fetch(*LABELS, npm_download("emojibase-data", "17.0.0"), remedy=REMEDY, cache=cache)
    return _read_labels(package)


@functools.cache
def _read_labels(package: Path) -> list[Label]:
    with tarfile.open(package, "r:gz") as tar:
        records: list[dict[str, Any]] = json.loads(_file(tar, "package/en/data.json"))
    listed = []
    for record in records:
        points = [point for point in record["hexcode"].split("-") if point != VARIATION]
        if record.get("group") in GROUPS and len(points) == 1 and (name := thing(record["label"])):
            listed.append(Label(name, GROUPS[record["group"]], int(points[0], 16)))
    return listed


def thing(text: str) -> str:
    """A name in plain lower-case words, without article and stop; "" if it has other characters."""
    name = re.sub(r"^(an?|the|some) ", "", text.strip().rstrip(".!").lower())
    name = name.replace("-", " ").replace("\u2019", "'").replace("'", "")
    return name if re.fullmatch(r"[a-z]+( [a-z]+)*", name) else ""


def _file(tar: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    """By its name in any order; of a stream (`r|*`, unpacked once) the file it has come to."""
    file = tar.extractfile(member)
    if file is None:
        raise UserError(f"{member} is not in the package")
    return file.read()


def _pixels(file: bytes) -> np.ndarray:
    with pillow().open(io.BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGBA"), np.uint8)
