# SPDX-License-Identifier: Apache-2.0
"""Images for a study: shuffled once, standardised, with as many of each class."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.plasticity import pictures as module
from training.recipes.vision.image_arrays import ImageArrays


@pytest.fixture
def images(monkeypatch) -> ImageArrays:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 3, 1), np.uint8)
    images = ImageArrays(pixels, np.repeat(np.arange(4), 10).astype(np.int32), 4)
    monkeypatch.setattr(module, "load_images", lambda source: images)
    module.pictures.cache_clear()
    return images


def test_images_are_shuffled_the_same_way(images):
    data = module.pictures("any", 30)
    assert data.x_NHWC.shape == (30, 3, 3, 1)
    assert len(set(data.labels_N[:10].tolist())) > 1
    labels_CM = np.asarray(data.labels_N)[np.asarray(data.of_class_CM)]
    assert (labels_CM == np.arange(4)[:, None]).all()
    module.pictures.cache_clear()
    np.testing.assert_array_equal(module.pictures("any", 30).x_NHWC, data.x_NHWC)


@pytest.mark.parametrize(
    ("count", "message"),
    [(41, "images=41: any has 40; expected from 1"), (1, "1 images lack one of the 4 classes")],
)
def test_too_many_and_too_few(images, count, message):
    with pytest.raises(UserError, match=message):
        module.pictures("any", count)
