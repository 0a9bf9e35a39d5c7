# SPDX-License-Identifier: Apache-2.0
"""The images that a study learns from, on the device, standardised and shuffled once."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.vision.images import load_images, moments, standardised


class Pictures(NamedTuple):
    """x_NHWC float32, labels_N int32, by class the numbers of its images, all equally many."""

    x_NHWC: jax.Array
    labels_N: jax.Array
    of_class_CM: jax.Array


@functools.lru_cache(maxsize=2)
def pictures(source: str, count: int) -> Pictures:
    """The first `count` images after a shuffle that is always the same.

    Raises UserError: there are fewer, or one of the classes has none; see load_images.
    """
    images = load_images(source)
    if not 0 < count <= len(images.labels_N):
        raise UserError(
            f"images={count:,}: {source} has {len(images.labels_N):,}; expected from 1 to that"
        )
    order = np.random.default_rng(0).permutation(len(images.labels_N))[:count]
    x_NHWC = standardised(images.read(order), *moments(images))
    labels_N = images.labels_N[order]
    return arranged(x_NHWC, labels_N, images.classes)


def arranged(x_NHWC: np.ndarray, labels_N: np.ndarray, classes: int) -> Pictures:
    """With the numbers of each class's images. Raises UserError: a class has none."""
    fewest = int(np.bincount(labels_N, minlength=classes).min())
    if fewest == 0:
        raise UserError(
            f"{len(labels_N):,} images lack one of the {classes} classes: take more images"
        )
    of_class = [np.flatnonzero(labels_N == label)[:fewest] for label in range(classes)]
    return Pictures(
        jnp.asarray(x_NHWC),
        jnp.asarray(labels_N, jnp.int32),
        jnp.asarray(np.stack(of_class), jnp.int32),
    )
