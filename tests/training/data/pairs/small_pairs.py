# SPDX-License-Identifier: Apache-2.0
"""Small images of one colour each, and their captions."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220), "grey": (90, 90, 90)}
CAPTIONS = [f"a {name} thing" for name in COLOURS]


def png(number: int, size: tuple[int, int] = (12, 8)) -> bytes:
    """The file of an image of the colour with this number."""
    out = io.BytesIO()
    Image.new("RGB", size, list(COLOURS.values())[number % len(COLOURS)]).save(out, format="PNG")
    return out.getvalue()


def colour(image: np.ndarray) -> str:
    """The name of an image's colour."""
    (name,) = [n for n, value in COLOURS.items() if (image == np.array(value, np.uint8)).all()]
    return name


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
