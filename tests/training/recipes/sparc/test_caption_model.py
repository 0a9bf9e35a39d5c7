# SPDX-License-Identifier: Apache-2.0
"""A Griffin learns the language of captions, as far as they can be known beforehand."""

import math

import numpy as np

from training.recipes.sparc.caption_model import caption_model, drawn_caption
from training.recipes.sparc.scene_study import griffin_of
from training.recipes.sparc.scenes import COLOURS, RELATIONS, SceneConfig, held_out
from training.recipes.sparc.words import WordVocabulary

NAMES = ("apple", "bus", "cat", "dog")


def test_captions_are_of_all_combinations():
    rng = np.random.default_rng(0)
    told = [drawn_caption(NAMES, SceneConfig(things=(2, 2)), rng) for _ in range(200)]
    pairs = {tuple(phrase.split()[1:]) for caption in told for phrase in caption.split(" and ")}
    assert pairs == {(colour, name) for colour in COLOURS for name in NAMES}
    assert any(held_out(name, colour) for colour, name in pairs)
    assert "an apple" in " ".join(
        drawn_caption(NAMES, SceneConfig(coloured=False), rng) for _ in range(20)
    )
    placed = drawn_caption(NAMES, SceneConfig(says="place"), rng)
    assert any(f" {relation} a" in placed for relation in RELATIONS)
    one = drawn_caption(NAMES, SceneConfig(things=(3, 3), mentioned=1), rng)
    assert len(one.split()) == 3


def test_it_learns_what_can_be_known():
    """A caption of two things without colours, `a x and a y`: the first thing is one of four, the
    second one of three; all else is certain, but for the article of what comes."""
    words = WordVocabulary((*NAMES[1:], "pig"), colours=())
    config = SceneConfig(things=(2, 2), coloured=False)
    griffin = griffin_of(16, 2, len(words))
    _, nats = caption_model(
        griffin, words, config, length=8, steps=150, batch_size=16, learning_rate=1e-2, seed=0
    )
    least = (math.log(4) + math.log(3)) / 4  # of the tokens that follow the first
    assert least * 0.97 < nats < least + 0.15
