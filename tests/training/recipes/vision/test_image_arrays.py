# SPDX-License-Identifier: Apache-2.0
"""Images in memory are read by their numbers, in any order."""

import numpy as np

from training.recipes.vision.image_arrays import ImageArrays


def test_images_are_read_by_number():
    pixels = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)
    images = ImageArrays(pixels, np.array([0, 1, 1], np.int32), 2)
    np.testing.assert_array_equal(images.read([2, 0, 2]), pixels[[2, 0, 2]])
