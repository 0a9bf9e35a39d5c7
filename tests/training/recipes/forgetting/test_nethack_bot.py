# SPDX-License-Identifier: Apache-2.0
"""The bot on maps that are drawn here: stairs, what is not known yet, doors, monsters."""

import numpy as np
import pytest

from tests.training.recipes.forgetting.dungeon_without_nethack import games
from training.recipes.forgetting.nethack import Game, NetHackGames
from training.recipes.forgetting.nethack_bot import DOWN, MAP, MORE, MOVES, SEARCH, Descender

KEYS = (MORE, *MOVES, DOWN, SEARCH)
SIGNS = {" ": MAP, "|": MAP + 1, ".": MAP + 19, "#": MAP + 21, ">": MAP + 24, "+": MAP + 15}
SIGNS |= {"m": 10, "d": 400, "!": 2000, "@": MAP + 19}


def asked(bot, lines, waits=False):
    """The key that the bot presses where the map is this, and `@` the player."""
    glyphs = np.array([[SIGNS[sign] for sign in line] for line in lines])
    row, column = next((r, line.index("@")) for r, line in enumerate(lines) if "@" in line)
    blstats = np.zeros(27, np.int64)
    blstats[:2], blstats[12] = (column, row), 1
    misc = np.array([0, 0, int(waits)])
    return chr(KEYS[bot.act({"glyphs": glyphs, "blstats": blstats, "misc": misc})])


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["|||||", "|@.>|", "|||||"], "l"),  # to the stairs
        (["|||||", "|@m>|", "|||||"], "l"),  # through a monster
        (["|||||", "|@d>|", "|||||"], "l"),  # a pet changes places
        (["||||| ", "|@.## ", "||||| "], "l"),  # where something may be seen
        (["|||||", "|@..|", "|.+||", "|  | "], "j"),  # nobody goes through a door slantwise
        (["|||", "|@|", "|||"], "s"),  # nothing else to do
    ],
)
def test_a_step(lines, key):
    assert asked(Descender(KEYS), lines) == key


def test_it_reads_first_and_goes_down_stairs_that_it_stands_on():
    bot = Descender(KEYS)
    assert asked(bot, ["|||||", "|@.>|", "|||||"], waits=True) == "\r"
    assert asked(bot, ["|||||", "|@.>|", "|||||"]) == "l"
    assert asked(bot, ["|||||", "|..@|", "|||||"]) == ">"  # it remembers them


def test_what_does_not_give_way_is_left():
    bot, lines = Descender(KEYS), ["|||||", "|@.>|", "|...|", "|||||"]
    keys = [asked(bot, lines) for _ in range(6)]
    assert keys[:3] == ["l"] * 3
    assert keys[4] != "l"


def played(make, steps):
    with make(Game(), 2, seed=5) as two:
        two.reset()
        bots = [Descender(two.keys) for _ in range(2)]
        for _ in range(steps):
            action_B = [bot.act(now) for bot, now in zip(bots, two.now, strict=True)]
            stepped = two.step(np.array(action_B))
            for row in np.flatnonzero(stepped.terminated | stepped.truncated):
                bots[row] = Descender(two.keys)
        return two.visits()


def test_it_goes_down():
    assert played(games, 60).games > 1


def test_it_goes_down_in_nethack():
    pytest.importorskip("nle", reason="nle is not installed here: griffin-lm[nethack]")
    assert played(NetHackGames, 1000).far_steps > 0
