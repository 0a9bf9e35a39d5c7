# SPDX-License-Identifier: Apache-2.0
"""Sets of images by name, and what is told of a wrong one."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.vision.image_arrays import ImageArrays
from training.recipes.vision.images import load_images, moments, standardised


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("minst", r"no set of images \(did you mean 'mnist'\?\): expected one of mnist, fashion"),
        ("mnist:a", "'mnist:a': expected mnist"),
        ("cifar10", "'cifar10': expected cifar10:FOLDER"),
        ("folder:x?sise=3", r"expected folder:FOLDER\[\?size=224\]"),
        ("folder:x?size=big", "size=big: expected the pixels of a side"),
        ("cifar10:/nowhere", "there is no /nowhere/data_batch_1: expected cifar-10-python.tar.gz"),
        ("folder:/nowhere", "there is no folder /nowhere/train: expected FOLDER/train/CLASS"),
        ("fashion-mnist?size=3", "expected fashion-mnist"),
    ],
)
def test_a_wrong_name_is_told(source, message):
    with pytest.raises(UserError, match=message):
        load_images(source)


def test_a_split_that_is_not_there():
    for source in ("fashion-mnist", "cifar10:x"):
        with pytest.raises(UserError, match=r"split='dev': .* has train, test"):
            load_images(source, "dev")


def test_channels_are_standardised():
    pixels = np.random.default_rng(0).integers(0, 200, (50, 4, 4, 2), np.uint8)
    images = ImageArrays(pixels, np.zeros(50, np.int32), 1)
    x = standardised(images.read([*range(50)]), *moments(images))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-5)
