# SPDX-License-Identifier: Apache-2.0
"""Forty random images of four classes."""

import numpy as np

from training.recipes.plasticity.pictures import Pictures, arranged


def small_pictures() -> Pictures:
    random = np.random.default_rng(0)
    x_NHWC = random.normal(size=(40, 4, 4, 1)).astype(np.float32)
    return arranged(x_NHWC, np.repeat(np.arange(4), 10).astype(np.int32), 4)
