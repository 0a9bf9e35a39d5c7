# SPDX-License-Identifier: Apache-2.0
"""A set of images that lies in memory."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """See images.Images. Legend: N images, B of a batch, H W C of an image."""

    pixels_NHWC: np.ndarray
    labels_N: np.ndarray
    classes: int

    def read(self, index_B: Sequence[int] | np.ndarray) -> np.ndarray:
        """These images, [B, H, W, C]."""
        return self.pixels_NHWC[np.asarray(index_B)]
