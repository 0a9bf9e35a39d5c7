# SPDX-License-Identifier: Apache-2.0
"""Things to make scenes of: blocks of several shapes."""

import numpy as np

from training.recipes.sparc.cutouts import Cutout

NAMES = ("apple", "boat", "clock", "drum", "egg", "hot dog", "kite", "lamp")


def things() -> list[Cutout]:
    """Opaque blocks with a hole, each in a grey and a shape of its own."""
    blocks = []
    for number, name in enumerate(NAMES):
        pixels_HW4 = np.full((20 + 4 * number, 48 - 3 * number, 4), 90 + 15 * number, np.uint8)
        pixels_HW4[..., 3] = 255
        pixels_HW4[2:5, 2:5, 3] = 0
        blocks.append(Cutout(name, "blocks", pixels_HW4))
    return blocks
