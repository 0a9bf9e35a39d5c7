# SPDX-License-Identifier: Apache-2.0
"""What a trained pair of towers does on scenes: retrieval, swaps, segmentation, K-precision,
zero-shot classification, the mismatch gap. Legend: scene_arrays.py, D width."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from training.recipes.sparc import metrics
from training.recipes.sparc.batch import PairBatch
from training.recipes.sparc.localization import class_maps, mean_iou
from training.recipes.sparc.method import mismatch_gap
from training.recipes.sparc.scene_arrays import SceneArrays, scaled, text_batch
from training.recipes.sparc.towers import ImageText, PairConfig
from training.recipes.sparc.words import WordVocabulary

AT_ONCE = 64  # rows


class Evaluator:
    """Programs for models of one structure, compiled once for all of a study's."""

    def __init__(
        self, graphdef: nnx.GraphDef[ImageText], config: PairConfig, words: WordVocabulary
    ):
        self._length, self._grid, self._words = config.text.length, config.grid, words

        def images(params: Any, images_BSS3: jax.Array) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, params)
            return model.images(images_BSS3)[1], model.patch_map(images_BSS3)

        def texts(params: Any, batch: PairBatch) -> jax.Array:
            return nnx.merge(graphdef, params).texts(batch.ids_BL, batch.mask_BL)[1]

        def gap(params: Any, batch: PairBatch) -> jax.Array:
            model = nnx.merge(graphdef, params)
            return mismatch_gap(model(batch)[0], model.scale())

        self._images, self._texts, self._gap = jax.jit(images), jax.jit(texts), jax.jit(gap)

    def measure(self, params: Any, scenes: SceneArrays) -> dict[str, float]:
        """Numbers by name, each from 0 to 1 but the gap, which is in nats."""
        rows = np.arange(len(scenes.captions))
        images = [self._images(params, scaled(scenes.images_NSS3[part])) for part in _parts(rows)]
        image_ND, patches_NPD = (np.concatenate(arrays) for arrays in zip(*images, strict=True))
        text_ND = self.texts(params, scenes.captions)
        numbers = metrics.retrieval(image_ND, text_ND, rows)
        for kind, captions in scenes.swapped.items():
            these = [row for row, caption in enumerate(captions) if caption is not None]
            wrong_MD = self.texts(params, [str(captions[row]) for row in these])
            numbers[f"{kind} swapped"] = metrics.swap_accuracy(
                image_ND[these], text_ND[these], wrong_MD
            )
        size = scenes.truth_NSS.shape[1:]
        predicted_NSS = class_maps(
            *(patches_NPD, self.texts(params, scenes.phrases), scenes.shown_NC),
            grid=self._grid,
            size=(int(size[0]), int(size[1])),
        )
        numbers["mIoU"] = mean_iou(predicted_NSS, scenes.truth_NSS, len(scenes.phrases))
        top_N = metrics.nearest_captions(image_ND, text_ND)
        own = [set(caption.split()) for caption in scenes.captions]
        content = {word for phrase in scenes.phrases for word in phrase.split()}
        numbers["K-precision"] = metrics.k_precision(
            [scenes.captions[row].split() for row in top_N], own, counted=content
        )
        gaps = [
            self._gap(params, scenes.batch(part, self._words, self._length))
            for part in _parts(rows)
        ]
        numbers["gap"] = float(np.mean(gaps))
        return numbers

    def zero_shot(
        self,
        params: Any,
        images_NSS3: np.ndarray,
        labels_N: np.ndarray,
        prompts: Sequence[Sequence[str]],
    ) -> float:
        """Accuracy of images among classes, each the mean of its captions (metrics.py).

        images_NSS3: uint8. prompts: as many captions for each class.
        """
        rows = np.arange(len(images_NSS3))
        embedded = [self._images(params, scaled(images_NSS3[part]))[0] for part in _parts(rows)]
        text_MD = self.texts(params, [caption for one in prompts for caption in one])
        class_CD = metrics.class_embeddings(text_MD.reshape(len(prompts), -1, text_MD.shape[-1]))
        return metrics.zero_shot_accuracy(np.concatenate(embedded), class_CD, labels_N)

    def texts(self, params: Any, captions: list[str]) -> np.ndarray:
        """Embeddings [M, D] of captions."""
        embedded = []
        for part in _parts(np.arange(len(captions))):
            these = [captions[row] for row in part]
            these += [these[0]] * (AT_ONCE - len(these))  # one shape, one program
            empty_B1113 = np.zeros((AT_ONCE, 1, 1, 3), np.float32)
            batch = text_batch(empty_B1113, these, self._words, self._length)
            embedded.append(np.asarray(self._texts(params, batch))[: len(part)])
        return np.concatenate(embedded)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, range(AT_ONCE, len(rows), AT_ONCE))
