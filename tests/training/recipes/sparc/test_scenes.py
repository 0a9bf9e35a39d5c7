# SPDX-License-Identifier: Apache-2.0
"""Scenes are what their captions say, the same each time, and masks lie where things are."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.sparc.things import things
from training.recipes.sparc.scenes import (
    COLOURS,
    SPLITS,
    Part,
    SceneConfig,
    Scenes,
    held_out,
    swapped,
    tinted,
    told,
)

SMALL = SceneConfig(side=32)


def test_a_scene_follows_from_its_number():
    first, again = Scenes(things(), SMALL).scene(7), Scenes(things(), SMALL).scene(7)
    np.testing.assert_array_equal(first.image_SS3, again.image_SS3)
    assert first.caption == again.caption
    others = [Scenes(things(), SMALL, split=split).scene(7).caption for split in SPLITS]
    assert len(set(others)) == len(SPLITS)


def test_masks_and_captions_are_of_the_things():
    scenes = Scenes(things(), SMALL)
    for number in range(40):
        scene = scenes.scene(number)
        assert scene.image_SS3.shape == (32, 32, 3)
        assert 2 <= len(scene.parts) <= 3
        assert len({part.name for part in scene.parts}) == len(scene.parts)
        assert np.stack([part.mask_SS for part in scene.parts]).sum(0).max() == 1
        for part in scene.parts:
            assert part.phrase in scene.caption
            mean_3 = scene.image_SS3[part.mask_SS].mean(0)
            shade_3 = np.array(COLOURS[part.colour])
            cosine = mean_3 @ shade_3 / np.linalg.norm(mean_3) / np.linalg.norm(shade_3)
            assert cosine > 0.97
            assert not held_out(part.name, part.colour)


def test_what_is_held_out_is_of_new_alone():
    shares = [held_out(name, colour) for name in "abcdefghijklmnop" for colour in COLOURS]
    assert 0.1 < np.mean(shares) < 0.3
    scenes = Scenes(things(), SMALL, split="new")
    for number in range(10):
        assert all(held_out(p.name, p.colour) for p in scenes.scene(number).parts)


def test_places_are_true():
    scenes, relations = Scenes(things(), SceneConfig(side=32, says="place")), set()
    for number in range(60):
        scene = scenes.scene(number)
        (y, x), (other_y, other_x) = (np.argwhere(p.mask_SS).mean(0) for p in scene.parts)
        assert {
            "left of": x < other_x,
            "right of": x > other_x,
            "above": y < other_y,
            "below": y > other_y,
        }[scene.relation]
        assert scene.caption == told(scene.parts, scene.relation)
        relations.add(scene.relation)
        assert sorted(swapped(scene)["order"].split()) == sorted(scene.caption.split())
        assert swapped(scene)["order"] != scene.caption
    assert len(relations) == 4


def test_what_is_said_and_what_is_not():
    none_11 = np.zeros((1, 1), bool)
    parts = [
        Part("apple", "red", none_11, True),
        Part("hot dog", "", none_11, True),
        Part("egg", "blue", none_11, False),
    ]
    assert told(parts) == "a red apple and a hot dog"
    assert told([parts[0]._replace(colour="")]) == "an apple"
    config = SceneConfig(side=32, things=(3, 3), mentioned=2)
    scene = Scenes(things(), config).scene(0)
    assert [part.mentioned for part in scene.parts] == [True, True, False]
    assert scene.caption.count(" and ") == 1
    captions = swapped(scene)
    assert captions.keys() == {"colours"}
    first, second, _ = scene.parts
    assert f"{second.colour} {first.name}" in captions["colours"]
    plain = Scenes(things(), SceneConfig(side=32, coloured=False)).scene(0)
    assert not swapped(plain)
    np.testing.assert_array_equal(tinted(plain.parts[0].mask_SS, ""), plain.parts[0].mask_SS)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: SceneConfig(things=(3, 2)), r"things=\(3, 2\): expected from 1 to 4"),
        (lambda: SceneConfig(things=(1, 2), says="place"), "says='place' needs two"),
        (lambda: SceneConfig(side=8), "expected at least 16 pixels"),
        (lambda: Scenes(things(), split="dev"), "split='dev': expected one of train"),
        (lambda: Scenes(things()[:3]), "3 things to make scenes of: expected at least 4"),
    ],
)
def test_what_cannot_be(make, problem: str):
    with pytest.raises(UserError, match=problem):
        make()
