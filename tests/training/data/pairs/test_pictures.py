# SPDX-License-Identifier: Apache-2.0
"""Any image becomes a square of pixels; what is none is said to be."""

import io

import numpy as np
import pytest
from PIL import Image

from recurrentgemma.errors import UserError
from tests.training.data.pairs.small_pairs import colour, png
from training.data.pairs.pictures import SHARES, _drawn, square


def test_the_middle():
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, 2:10] = 200
    np.testing.assert_array_equal(square(pixels, 4)[:, 1:3], np.full((4, 2, 3), 200))
    assert (square(pixels, 4) > 150).all()  # of what is beside, the edges have a little
    assert colour(square(png(2), 5)) == "blue"
    assert square(pixels[..., :1], 6).shape == (6, 6, 3)


def test_what_is_transparent_is_white():
    out = io.BytesIO()
    Image.new("RGBA", (6, 6), (10, 20, 30, 0)).save(out, format="PNG")
    np.testing.assert_array_equal(square(out.getvalue(), 3), np.full((3, 3, 3), 255))


def test_cuts_are_drawn():
    rng = np.random.default_rng(0)
    boxes = np.array([_drawn(40, 30, rng) for _ in range(500)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 40 + 1e-9).all()
    assert (boxes[:, 3] <= 30 + 1e-9).all()
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1200
    assert shares.min() > 0.85 * SHARES[0]
    assert shares.max() <= 1
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    drawn = [square(pixels, 8, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (b"", "no image that can be decoded"),
        (png(0)[:40], "no image that can be decoded"),
        (b"GIF89a" + bytes(30), "no image that can be decoded"),
        (np.zeros((4, 4)), r"an image of shape \(4, 4\): expected \[height, width, 3\]"),
        (np.zeros((0, 4, 3)), r"an image of shape \(0, 4, 3\)"),
    ],
    ids=["nothing", "cut off", "broken", "grey", "empty"],
)
def test_what_is_none(image: bytes | np.ndarray, problem: str):
    with pytest.raises(UserError, match=problem):
        square(image, 4)
