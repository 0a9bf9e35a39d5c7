# SPDX-License-Identifier: Apache-2.0
"""Arrays of scenes say what the scenes say."""

import dataclasses

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.sparc.things import NAMES, things
from training.recipes.sparc import scene_arrays as module
from training.recipes.sparc.scene_arrays import (
    scaled,
    scene_arrays,
    text_batch,
    things_alone,
    things_of,
)
from training.recipes.sparc.scenes import SceneConfig, Scenes
from training.recipes.sparc.words import WordVocabulary

CONFIG = SceneConfig(side=32, things=(3, 3), mentioned=2)


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cutouts", lambda style: things())
    things_of.cache_clear()
    scene_arrays.cache_clear()


def test_they_are_the_scenes():
    arrays = scene_arrays("blocks", None, CONFIG, "test", 6)
    source = Scenes(things(), CONFIG, split="test")
    for row in range(6):
        scene = source.scene(row)
        np.testing.assert_array_equal(arrays.images_NSS3[row], scene.image_SS3)
        assert arrays.captions[row] == scene.caption
        told = {part.phrase for part in scene.parts if part.mentioned}
        assert {arrays.phrases[c] for c in np.flatnonzero(arrays.shown_NC[row])} == told
        for part in scene.parts:
            labels = set(arrays.truth_NSS[row][part.mask_SS].tolist())
            assert labels == ({arrays.phrases.index(part.phrase)} if part.mentioned else {-1})
    assert all(caption is not None for caption in arrays.swapped["colours"])
    assert scene_arrays("blocks", None, CONFIG, "test", 6) is arrays


def test_a_batch():
    arrays, words = scene_arrays("blocks", None, CONFIG, "train", 4), WordVocabulary(NAMES)
    batch = arrays.batch(np.array([2, 0]), words, 12)
    assert batch.images_BHWC.min() >= -1
    assert batch.images_BHWC.max() <= 1
    first = [int(id) for id, real in zip(batch.ids_BL[0], batch.mask_BL[0], strict=True) if real]
    assert words.decode(first) == arrays.captions[2]
    read = [words.words[id] for id in batch.ids_BL[0][batch.words_BL[0]]]
    assert read == [word for word in arrays.captions[2].split() if word not in ("a", "an", "and")]
    with pytest.raises(UserError, match="the text tower takes 3"):
        arrays.batch(np.array([0]), words, 3)
    with pytest.raises(UserError, match="'horse' is no word"):
        text_batch(scaled(arrays.images_NSS3[:1]), ["a red horse"], words, 12)


def test_things_alone():
    names = ("egg", "boat", "lamp", "kite", "zebra")
    alone = things_alone("blocks", names, CONFIG, 5)
    assert alone is not None
    assert alone.images_NSS3.shape == (5, CONFIG.side, CONFIG.side, 3)
    assert [one[0] for one in alone.prompts] == [
        *("a red boat", "a red egg", "a red kite", "a red lamp")
    ]
    assert {len(one) for one in alone.prompts} == {6}
    source = Scenes(
        [one for one in things() if one.name in names],
        dataclasses.replace(CONFIG, things=(1, 1), says="list"),
        split="test",
    )
    for row, label in enumerate(alone.labels_N):
        assert source.scene(row).parts[0].name in alone.prompts[label][0]
    assert things_alone("blocks", names[:3], CONFIG, 5) is None


def test_fewer_things():
    assert len(things_of("blocks", None)) == 8
    assert [one.name for one in things_of("blocks", 3)] == ["apple", "egg", "lamp"]
