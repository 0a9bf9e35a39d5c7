# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model is what its own embeddings say."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.training.recipes.sparc.things import NAMES, things
from training.recipes.sparc import evaluation, metrics
from training.recipes.sparc import scene_arrays as module
from training.recipes.sparc.evaluation import Evaluator
from training.recipes.sparc.scene_arrays import scaled, scene_arrays, things_of
from training.recipes.sparc.scenes import SceneConfig
from training.recipes.sparc.text import TransformerConfig
from training.recipes.sparc.towers import ImageText, PairConfig
from training.recipes.sparc.words import WordVocabulary
from training.recipes.vision.vit import ViTConfig


def test_numbers_are_those_of_the_embeddings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "cutouts", lambda style: things())
    monkeypatch.setattr(evaluation, "AT_ONCE", 4)
    things_of.cache_clear()
    scene_arrays.cache_clear()
    words = WordVocabulary(NAMES)
    scenes = scene_arrays("blocks", None, SceneConfig(side=16), "test", 6)
    config = PairConfig(
        image=ViTConfig(patch=4, width=16, depth=1, heads=2),
        text=TransformerConfig(vocab_size=len(words), length=16, width=16, depth=1, heads=2),
        image_size=16,
        width=16,
    )
    model = ImageText(config, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    evaluator = Evaluator(graphdef, config, words)
    numbers = evaluator.measure(params, scenes)
    batch = scenes.batch(np.arange(6), words, 16)
    image_ND = jax.jit(lambda x: model.images(x)[1])(scaled(scenes.images_NSS3))
    text_ND = jax.jit(lambda ids, mask: model.texts(ids, mask)[1])(batch.ids_BL, batch.mask_BL)
    expected = metrics.retrieval(np.asarray(image_ND), np.asarray(text_ND), np.arange(6))
    assert {name: numbers[name] for name in expected} == expected
    assert numbers.keys() - expected.keys() == {"colours swapped", "mIoU", "K-precision", "gap"}
    assert all(0 <= value <= 1 for name, value in numbers.items() if name != "gap")
    prompts = [scenes.captions[:2], scenes.captions[2:4], scenes.captions[4:]]
    class_CD = metrics.class_embeddings(np.asarray(text_ND).reshape(3, 2, -1))
    nearest_N = metrics.cosines(np.asarray(image_ND), class_CD).argmax(1)
    labels_N = np.where(np.arange(6) < 4, nearest_N, (nearest_N + 1) % 3)  # two are wrong
    accuracy = evaluator.zero_shot(params, scenes.images_NSS3, labels_N, prompts)
    assert accuracy == pytest.approx(4 / 6)
