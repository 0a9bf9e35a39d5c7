# SPDX-License-Identifier: Apache-2.0
"""Montezuma's rooms on the emulator: states that are gone back to, pictures, ends and counts."""

import sys

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.forgetting.montezuma import (
    SCREEN,
    Emulator,
    Game,
    MontezumaEnvironments,
    Start,
    smaller,
)

RIGHT = 3


def test_pictures_are_means_over_areas():
    screen_HW = np.full(SCREEN, 40, np.uint8)
    assert (smaller(screen_HW) == 40).all()
    screen_HW[:, : SCREEN[1] // 2] = 200
    small = smaller(screen_HW)
    assert small.shape == (84, 84)
    assert (small[:, :42] == 200).all()
    assert (small[:, 42:] == 40).all()


@pytest.mark.parametrize("choices", [{"sticky": 1.0}, {"limit": 0}])
def test_a_game_that_is_none(choices):
    with pytest.raises(UserError, match="expected a probability below 1"):
        Game(**choices)


def test_the_extra_is_named_where_ale_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match=r"ale-py is not installed .*griffin-lm\[rl\]"):
        Emulator(0.0, 0)


def test_a_state_is_gone_back_to():
    pytest.importorskip("ale_py", reason="ale-py is not installed here: griffin-lm[rl]")
    emulator = Emulator(0.0, 0)
    emulator.begin()
    assert emulator.situation[:2] == (1, 77)
    assert emulator.situation.points == 0
    for _ in range(8):
        emulator.step(RIGHT)
    kept, x = emulator.kept(), emulator.situation.x
    assert x > 77
    for _ in range(8):
        emulator.step(RIGHT)
    after, picture = emulator.situation, emulator.picture
    again = Emulator(0.0, 5)
    again.begin(kept)
    assert again.situation.x == x
    for _ in range(8):
        again.step(RIGHT)
    assert again.situation == after
    np.testing.assert_array_equal(again.picture, picture)


def test_environments():
    pytest.importorskip("ale_py", reason="ale-py is not installed here: griffin-lm[rl]")
    emulator = Emulator(0.0, 0)
    emulator.begin()
    for _ in range(8):
        emulator.step(RIGHT)
    start = Start(emulator.kept(), emulator.situation, -1)
    game = Game(sticky=0.0, limit=3)
    with MontezumaEnvironments(game, 2, seed=0, starts=[start], far=[1]) as environments:
        observation_B = environments.reset()
        assert observation_B.shape == (2, *environments.observation_shape)
        assert (observation_B[..., 0] == observation_B[..., 3]).all()
        assert environments.emulators[0].situation.x == start.situation.x
        cut = [environments.step(np.array([RIGHT, 0])) for _ in range(4)]
        assert [bool(one.truncated.all()) for one in cut] == [False, False, True, False]
        np.testing.assert_array_equal(cut[2].observation, observation_B)
        assert (cut[2].final_observation[..., 2] == cut[1].observation[..., 3]).all()
        visits = environments.visits()
    assert visits.rooms == {1}
    assert visits.episodes == 2
    assert visits.shares() == {"score": 0.0, "far": 1.0, "rooms": 1.0}
