# SPDX-License-Identifier: Apache-2.0
"""Scenes of a split as arrays, made once and read by every arm and seed of a study.

Legend: N scenes, S pixels of a side, L tokens, C phrases that a split names, or classes.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from training.recipes.sparc.batch import PairBatch, pair_batch
from training.recipes.sparc.cutouts import Cutout, cutouts
from training.recipes.sparc.localization import BACKGROUND
from training.recipes.sparc.scenes import COLOURS, SceneConfig, Scenes, swapped, with_article
from training.recipes.sparc.words import WordVocabulary


class SceneArrays(NamedTuple):
    """truth_NSS: of each pixel the number of a phrase, -1 on the background. swapped: of each scene
    its caption with colours, or words around a relation, exchanged; none where it has no such."""

    images_NSS3: np.ndarray  # uint8
    captions: list[str]
    truth_NSS: np.ndarray  # int32
    phrases: list[str]
    shown_NC: np.ndarray  # bool
    swapped: dict[str, list[str | None]]

    def batch(self, index_B: np.ndarray, words: WordVocabulary, length: int) -> PairBatch:
        """These scenes, as a step takes them; local losses read things and colours."""
        return text_batch(
            scaled(self.images_NSS3[index_B]),
            [self.captions[index] for index in index_B],
            words,
            length,
        )


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Bytes as floats from -1 to 1."""
    return pixels.astype(np.float32) / np.float32(127.5) - 1


def text_batch(
    images_BSS3: np.ndarray, captions: list[str], words: WordVocabulary, length: int
) -> PairBatch:
    """Captions beside images. Raises UserError: a word is not of the vocabulary, or a caption too
    long."""
    ids = [words.encode(caption) for caption in captions]
    longest = max(length, *map(len, ids))
    ids_BL = np.zeros((len(ids), longest), np.int32)
    for row, one in enumerate(ids):
        ids_BL[row, : len(one)] = one
    mask_BL = ids_BL > 0
    content_BL = words.is_content(ids_BL) & mask_BL
    return pair_batch(
        *(images_BSS3, ids_BL, mask_BL, content_BL), vocab_size=len(words), length=length
    )


@functools.cache
def things_of(style: str, count: int | None = None) -> tuple[Cutout, ...]:
    """A style's things, or so many of them, evenly over the alphabet."""
    things = cutouts(style)
    if count is None or count >= len(things):
        return tuple(things)
    return tuple(things[round(place)] for place in np.linspace(0, len(things) - 1, count))


class Things(NamedTuple):
    """Scenes of one thing. prompts: captions of each class."""

    images_NSS3: np.ndarray  # uint8
    labels_N: np.ndarray  # from 0 to C - 1
    prompts: list[list[str]]


@functools.lru_cache(maxsize=8)
def things_alone(
    style: str, names: tuple[str, ...], config: SceneConfig, count: int
) -> Things | None:
    """Scenes of one of the things of these names in this style, whose classes they are; None where
    the style has fewer than four of them."""
    shown = [one for one in things_of(style) if one.name in names]
    if len(shown) < 4:
        return None
    alone = dataclasses.replace(config, things=(1, 1), says="list", mentioned=None)
    source = Scenes(shown, alone, split="test")
    scenes = [source.scene(number) for number in range(count)]
    classes = {one.name: number for number, one in enumerate(shown)}
    colours = [f"{colour} " for colour in COLOURS] if config.coloured else [""]
    return Things(
        np.stack([scene.image_SS3 for scene in scenes]),
        np.array([classes[scene.parts[0].name] for scene in scenes]),
        [[with_article(f"{colour}{name}") for colour in colours] for name in classes],
    )


@functools.lru_cache(maxsize=8)
def scene_arrays(
    style: str, things: int | None, config: SceneConfig, split: str, count: int
) -> SceneArrays:
    """The first scenes of a split, of things_of(style, things)."""
    source = Scenes(things_of(style, things), config, split=split)
    scenes = [source.scene(number) for number in range(count)]
    phrases = sorted({part.phrase for scene in scenes for part in scene.parts if part.mentioned})
    number_of = {phrase: number for number, phrase in enumerate(phrases)}
    truth_NSS = np.full((count, config.side, config.side), BACKGROUND, np.int32)
    shown_NC = np.zeros((count, len(phrases)), bool)
    for row, scene in enumerate(scenes):
        for part in scene.parts:
            if part.mentioned:
                truth_NSS[row][part.mask_SS] = number_of[part.phrase]
                shown_NC[row, number_of[part.phrase]] = True
    exchanged = [swapped(scene) for scene in scenes]
    kinds = sorted({kind for captions in exchanged for kind in captions})
    return SceneArrays(
        np.stack([scene.image_SS3 for scene in scenes]),
        [scene.caption for scene in scenes],
        truth_NSS,
        phrases,
        shown_NC,
        {kind: [captions.get(kind) for captions in exchanged] for kind in kinds},
    )
