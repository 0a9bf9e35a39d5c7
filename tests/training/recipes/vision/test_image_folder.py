# SPDX-License-Identifier: Apache-2.0
"""A folder in ImageNet's layout: classes by name, the middle of each image in one size."""

import numpy as np
import pytest
from PIL import Image

from recurrentgemma.errors import UserError
from training.recipes.vision.images import load_images


def test_the_middle_of_each_image_is_read(tmp_path):
    for name, (width, height) in {"n02/b.JPEG": (40, 20), "n01/a.jpg": (16, 32)}.items():
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[height // 2 - 5 : height // 2 + 5, width // 2 - 5 : width // 2 + 5] = (250, 0, 0)
        Image.fromarray(pixels).save(path, quality=100)
    (tmp_path / "val" / "n01" / "notes.txt").write_text("no image")
    images = load_images(f"folder:{tmp_path}?size=14", "val")
    assert images.labels_N.tolist() == [0, 1]
    assert images.classes == 2
    pixels_BHWC = images.read([0, 1])
    assert pixels_BHWC.shape == (2, 14, 14, 3)
    assert (pixels_BHWC[:, 6:8, 6:8, 0] > 200).all()
    assert (pixels_BHWC[1, 6:8, 0, 0] < 60).all()  # 40 x 20 was cut at its sides


def test_what_is_no_image_and_what_has_none(tmp_path):
    (tmp_path / "train" / "n01").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no images in folders of classes: expected .*CLASS"):
        load_images(f"folder:{tmp_path}")
    (tmp_path / "train" / "n01" / "a.JPEG").write_bytes(b"text")
    images = load_images(f"folder:{tmp_path}")
    with pytest.raises(UserError, match=r"a\.JPEG is no image that can be decoded"):
        images.read([0])
