# SPDX-License-Identifier: Apache-2.0
"""Segmentation, its mIoU and heat maps, on patches whose class is known."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.sparc.localization import class_maps, heat_maps, mean_iou

EYE = np.eye(3)
PATCHES = np.array([[EYE[0], EYE[1], EYE[0] + 0.5 * EYE[2], EYE[1]]])
CANDIDATES = np.ones((1, 3), bool)


def test_each_pixel_has_the_class_of_its_patch():
    maps = class_maps(PATCHES, EYE, CANDIDATES, grid=(2, 2), size=(4, 2))
    assert maps.tolist() == [[[0, 1], [0, 1], [0, 1], [0, 1]]]
    fewer = np.array([[False, True, True]])
    assert class_maps(PATCHES, EYE, fewer, grid=(2, 2), size=(2, 2)).tolist() == [[[1, 1], [2, 1]]]


@pytest.mark.parametrize(
    ("grid", "size", "candidates", "message"),
    [
        ((2, 3), (6, 6), CANDIDATES, "4 patches in a grid of 2 x 3"),
        ((2, 2), (5, 6), CANDIDATES, "over 5 x 6 pixels: expected as many patches, and sides"),
        ((2, 2), (4, 4), ~CANDIDATES, "image 0 has no class to be found"),
    ],
)
def test_what_does_not_fit_is_refused(grid, size, candidates, message):
    with pytest.raises(UserError, match=message):
        class_maps(PATCHES, EYE, candidates, grid=grid, size=size)


def test_mean_iou_of_foreground():
    truth = np.array([[[0, 0], [1, -1]]])
    predicted = np.array([[[0, 1], [1, 1]]])
    assert mean_iou(predicted, truth, 3) == pytest.approx((1 / 2 + 1 / 2) / 2)
    counted = mean_iou(predicted, truth, 3, background_counts=True)
    assert counted == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert mean_iou(truth, truth, 3) == 1.0
    with pytest.raises(UserError, match="mIoU of images without a class"):
        mean_iou(predicted, np.full((1, 2, 2), -1), 3)


def test_heat_is_where_the_word_is():
    maps_LHW = heat_maps(EYE[:2], PATCHES[0], grid=(2, 2), size=(8, 8))
    assert maps_LHW.shape == (2, 8, 8)
    assert maps_LHW[0, :, 0].min() == 1.0
    assert maps_LHW[0, :, -1].max() == 0.0
    assert maps_LHW[1, 4, 7] == 1.0
    assert 0.0 < maps_LHW[0, 0, 4] < 1.0  # enlarged smoothly
