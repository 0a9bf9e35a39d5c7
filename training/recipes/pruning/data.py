# SPDX-License-Identifier: Apache-2.0
"""The images that a network is pruned on, in memory.

Legend: N examples, H W C of an image.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from training.recipes.vision.images import load_images, moments, standardised


class Sets(NamedTuple):
    """Standardised images and their labels."""

    train_NHWC: np.ndarray
    train_N: np.ndarray
    test_NHWC: np.ndarray
    test_N: np.ndarray
    classes: int


@functools.lru_cache(maxsize=2)
def load_sets(source: str, train_images: int, test_images: int) -> Sets:
    """The first so many of each split; a set with one split (mnist) is divided four to one, in an
    order of its own."""
    train, test = load_images(source, "train"), None
    order = np.arange(len(train.labels_N))
    if source == "mnist":
        order = np.random.default_rng(0).permutation(order)
        order, held_out = np.split(order, [len(order) * 4 // 5])
    else:
        test = load_images(source, "test")
        held_out = np.arange(len(test.labels_N))
    order, held_out = order[: train_images or None], held_out[: test_images or None]
    seen = moments(train)

    def read(images: Any, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return standardised(images.read(index), *seen), images.labels_N[index]

    return Sets(*read(train, order), *read(test or train, held_out), train.classes)
