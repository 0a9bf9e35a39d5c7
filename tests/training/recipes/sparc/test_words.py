# SPDX-License-Identifier: Apache-2.0
"""A token a word."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.sparc.things import NAMES, things
from training.recipes.sparc.scenes import SceneConfig, Scenes
from training.recipes.sparc.words import WordVocabulary


def test_captions_are_spelled_by_words():
    vocabulary = WordVocabulary(NAMES)
    for says in ("list", "place"):
        scenes = Scenes(things(), SceneConfig(side=32, says=says))
        for number in range(20):
            caption = scenes[number].caption
            ids = vocabulary.encode(caption)
            assert len(ids) == len(caption.split())
            assert 0 < min(ids) <= max(ids) < len(vocabulary)
            assert vocabulary.decode([*ids, 0, 0]) == caption
    ids = np.array(vocabulary.encode("a red hot dog left of an egg"))
    assert vocabulary.is_content(ids).tolist() == [False, True, True, True, *[False] * 3, True]
    with pytest.raises(UserError, match="'zebra' is no word of this vocabulary"):
        vocabulary.encode("a red zebra")
