# SPDX-License-Identifier: Apache-2.0
"""Games side by side: what is seen and counted, ends, and openings that lead to the same place; in
a dungeon without NetHack, and in NetHack where it is installed."""

import sys

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.training.recipes.forgetting.dungeon_without_nethack import KEYS, games
from training.recipes.forgetting.nethack import Game, NetHackGames, Opening, nethack_game
from training.recipes.forgetting.nethack_bot import MORE, Descender


def test_games_are_counted():
    with games(Game(), 2, seed=0) as two:
        seen = two.reset()
        assert seen.chars.shape == seen.colors.shape == (2, 24, 80)
        assert (seen.chars.dtype, seen.cursor.shape) == (np.uint8, (2, 2))
        assert two.policy.actions == len(KEYS)
        bots, ended, rewards = [Descender(two.keys) for _ in range(2)], np.zeros(2, int), 0.0
        while ended.min() < 1:
            action_B = np.array([bot.act(now) for bot, now in zip(bots, two.now, strict=True)])
            stepped = two.step(action_B)
            rewards += stepped.reward.sum()
            finished_B = stepped.terminated
            for row in np.flatnonzero(finished_B):
                bots[row] = Descender(two.keys)
            assert not stepped.truncated.any()
            fresh_B = np.where(finished_B, 0, action_B)
            np.testing.assert_array_equal(stepped.observation.action, fresh_B)
            ended += finished_B
        visits = two.visits()
    shares = visits.shares()
    assert visits.games == ended.sum()
    assert shares["score"] == 60
    assert shares["depth"] == 3
    assert rewards % 10 == 0
    assert rewards <= 30 * (ended.sum() + 2)
    assert 0.3 < shares["far"] < 0.9
    assert np.isnan(two.visits().shares()["score"])


def test_a_clock_that_stands_still_and_a_limit_cut_off():
    waiting = np.array([KEYS.index(MORE)])
    with games(Game(idle=5), 1, seed=0) as one:
        one.reset()
        cut = [bool(one.step(waiting).truncated[0]) for _ in range(10)]
    assert cut == [False] * 4 + [True] + [False] * 4 + [True]
    with games(Game(limit=3), 1, seed=0) as one:
        one.reset()
        cut = [bool(one.step(np.array([1])).truncated[0]) for _ in range(6)]
    assert cut == [False, False, True] * 2


def follow(make, game, actions, seed):
    """What is seen after these actions, and of a game that is opened with them."""
    with make(game, 1, seed=9, openings=[Opening(seed, ())]) as one:
        one.reset()
        for action in actions:
            seen = one.step(np.array([action])).observation
    with make(game, 1, seed=8, openings=[Opening(seed, tuple(actions))]) as one:
        opened = one.reset()
    return seen, opened


def test_an_opening_leads_there():
    seen, opened = follow(games, Game(), [2, 3, 5], seed=4)
    for ours, theirs in zip(seen, opened, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="1 openings of 2 games"):
        games(Game(), 2, seed=0, openings=[Opening(0, ())])


@pytest.mark.parametrize("choices", [{"limit": 0}, {"idle": 0}, {"far_depth": 1}])
def test_a_game_that_is_none(choices):
    with pytest.raises(UserError, match="expected 1 step or more"):
        Game(**choices)


@pytest.mark.parametrize("package", ["nle.env.tasks", "nle.nethack"])
def test_the_extra_is_named_where_nle_is_missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"NetHack is not installed .*griffin-lm\[nethack\]"):
        nethack_game(Game())


@pytest.mark.parametrize("challenge", [False, True])
def test_nethack_does_the_same_again(challenge):
    pytest.importorskip("nle", reason="nle is not installed here: griffin-lm[nethack]")
    game = Game(challenge=challenge)
    with NetHackGames(game, 1, seed=0, openings=[Opening(3, ())]) as one:
        assert one.policy.actions == (121 if challenge else 23)
        one.reset()
        bot, actions = Descender(one.keys), []
        for _ in range(60):
            actions.append(bot.act(one.now[0]))
            one.step(np.array(actions[-1:]))
        assert b"Agent the Candidate" in bytes(one.now[0]["tty_chars"][22])  # a Monk
    seen, opened = follow(NetHackGames, game, actions, seed=3)
    for ours, theirs in zip(seen, opened, strict=True):
        np.testing.assert_array_equal(ours, theirs)
