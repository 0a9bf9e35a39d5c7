# SPDX-License-Identifier: Apache-2.0
"""Where in an image a word or a class is: segmentation without training for it, its mIoU, and heat
maps of words (2401.09865, section 4.5).

The paper takes each patch through h_v and g_v (ImageText.patch_map), compares it with the labels of
the classes that are present, takes the best, enlarges, and looks at foreground classes alone. Words
of a caption are compared by the local path, v_p with t_l.

Legend: N images, P patches, C classes, L words, D width, H W of an image.
"""

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.sparc.alignment import min_max
from training.recipes.sparc.metrics import unit_rows

BACKGROUND = -1


def class_maps(
    patches_NPD: np.ndarray,
    class_CD: np.ndarray,
    candidates_NC: np.ndarray,
    *,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """The class of each pixel, int [N, H, W]: that of its patch, the nearest of the candidates.

    patches_NPD: of ImageText.patch_map. grid: rows and columns of patches. size: H, W.

    Raises:
      UserError: an image has no class, or the grid not the number of patches, or does not divide
        the size.
    """
    rows, columns = grid
    if rows * columns != patches_NPD.shape[1] or size[0] % rows or size[1] % columns:
        raise UserError(
            f"{patches_NPD.shape[1]} patches in a grid of {rows} x {columns} over {size[0]} x "
            f"{size[1]} pixels: expected as many patches, and sides that they divide"
        )
    if not candidates_NC.any(1).all():
        raise UserError(f"image {int(np.argmin(candidates_NC.any(1)))} has no class to be found")
    cosine_NPC = unit_rows(patches_NPD) @ unit_rows(class_CD).T
    best_NP = np.where(candidates_NC[:, None], cosine_NPC, -np.inf).argmax(-1)
    best = best_NP.reshape(-1, rows, columns)
    return best.repeat(size[0] // rows, 1).repeat(size[1] // columns, 2)


def mean_iou(
    predicted_NHW: np.ndarray,
    truth_NHW: np.ndarray,
    classes: int,
    *,
    background_counts: bool = False,
) -> float:
    """Intersection over union of each class over all images, and the mean of the classes that the
    truth has.

    truth_NHW: classes, and -1 where there is none of them. background_counts: a class predicted
    there is in its union; else such pixels are left out, the reading of "foreground alone" that is
    taken here.

    Raises:
      UserError: the truth has no class.
    """
    looked_at = np.ones(truth_NHW.shape, bool) if background_counts else truth_NHW != BACKGROUND
    ious = []
    for label in range(classes):
        truth = (truth_NHW == label) & looked_at
        predicted = (predicted_NHW == label) & looked_at
        if truth.any():
            ious.append((truth & predicted).sum() / (truth | predicted).sum())
    if not ious:
        raise UserError("mIoU of images without a class: expected at least one labelled pixel")
    return float(np.mean(ious))


def heat_maps(
    tokens_LD: jax.Array | np.ndarray,
    patches_PD: jax.Array | np.ndarray,
    *,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """[L, H, W], 0 to 1: how much of each word a place has, the min-max similarity that the local
    loss weighs patches by, enlarged smoothly. 1 everywhere where all patches are alike."""
    s_LP = jnp.asarray(tokens_LD, jnp.float32) @ jnp.asarray(patches_PD, jnp.float32).T
    maps = min_max(s_LP).reshape(-1, *grid)
    enlarged = jax.image.resize(maps, (len(maps), *size), "linear")
    return np.clip(np.asarray(enlarged), 0.0, 1.0)
