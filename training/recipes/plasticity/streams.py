# SPDX-License-Identifier: Apache-2.0
"""Streams of tasks over the same images: what changes from one task to the next.

    labels      a share of the labels is drawn anew, at random
    classes     the names of the classes change places
    pixels      the pixels of every image change places; the labels are the true ones
    composite   classes and pixels
    targets     numbers: growth^task times a random function of the image, plus an offset

A task is a pure function of (stream, seed, number), so that arms see the same tasks.
Legend: N images, P pixels, C classes.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

HIGH_FREQUENCY = 10.0  # of the random function that `targets` are


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """tasks of `steps` optimizer steps each."""

    kind: Literal["labels", "classes", "pixels", "composite", "targets"] = "labels"
    tasks: int = 6
    steps: int = 1500
    batch_size: int = 128
    fraction: float = 1.0
    """Of labels that are drawn anew."""
    growth: float = 1.0
    offset: float = 0.0
    last_offset: bool = True
    """Whether the last task keeps the offset; without it, it is regression on mean 0."""


class Task(NamedTuple):
    """places_P: where each pixel of an image comes from. labels_N: classes; values_N: numbers."""

    places_P: jax.Array
    labels_N: jax.Array
    values_N: jax.Array


def task(
    stream: Stream,
    key: jax.Array,
    number: jax.Array,
    before_N: jax.Array,
    *,
    true_N: jax.Array,
    pixels_NP: jax.Array,
    classes: int,
) -> Task:
    """A task. key: the seed's. before_N: the labels of the task before (of the first, any; all
    labels of a stream of labels are random from its first task on)."""
    key = jax.random.fold_in(key, number)
    label_key, share_key, pixel_key, value_key = jax.random.split(key, 4)
    labels_N = true_N
    places_P = jnp.arange(pixels_NP.shape[1])
    values_N = jnp.zeros(true_N.shape)
    if stream.kind == "labels":
        random_N = jax.random.randint(label_key, true_N.shape, 0, classes, before_N.dtype)
        again_N = jax.random.uniform(share_key, true_N.shape) < stream.fraction
        labels_N = jnp.where((number == 0) | again_N, random_N, before_N)
    if stream.kind in ("classes", "composite"):
        labels_N = jax.random.permutation(label_key, classes).astype(true_N.dtype)[true_N]
    if stream.kind in ("pixels", "composite"):
        places_P = jax.random.permutation(pixel_key, places_P)
    if stream.kind == "targets":
        direction_P = jax.random.normal(value_key, (pixels_NP.shape[1],))
        phase_N = pixels_NP @ direction_P / pixels_NP.shape[1] ** 0.5
        keeps = (number < stream.tasks - 1) | stream.last_offset
        offset = jnp.where(keeps, stream.offset, 0.0)
        growth = jnp.asarray(stream.growth, jnp.float32) ** number.astype(jnp.float32)
        values_N = growth * jnp.sin(HIGH_FREQUENCY * phase_N) + offset
    return Task(places_P, labels_N, values_N)


def shown(stream: Stream, x_BHWC: jax.Array, places_P: jax.Array) -> jax.Array:
    """Images with their pixels (channels included) in the task's places."""
    if stream.kind not in ("pixels", "composite"):
        return x_BHWC  # as they are, without the cost of a gather
    return x_BHWC.reshape(x_BHWC.shape[0], -1)[:, places_P].reshape(x_BHWC.shape)
