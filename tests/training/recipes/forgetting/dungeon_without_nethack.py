# SPDX-License-Identifier: Apache-2.0
"""A dungeon without NetHack, for tests: the part of NLE that forgetting/nethack.py uses. Each level
is one room; its stairs pay 20 points, and the game is over behind those of the third."""

from functools import partial

import numpy as np

from training.recipes.forgetting.nethack import DEPTH, SCORE, TURNS, Game, NetHackGames
from training.recipes.forgetting.nethack_bot import DOWN, MAP, MORE, MOVES, SEARCH

KEYS = (MORE, *MOVES, DOWN, SEARCH)
FLOOR, WALL, STAIRS = MAP + 19, MAP + 1, MAP + 24
DEEPEST = 3


class Dungeon:
    """4 x 6 places in the middle of the map; the seed says where the stairs are."""

    def __init__(self, game):
        self.game, self.core = game, 0

    def seed(self, *, core, disp, reseed):
        assert disp == core
        assert reseed is False
        self.core = core

    def reset(self):
        self.level, self.turns, self.score = 1, 0, 0
        self.place = (8, 30)
        return self.observed(), {}

    @property
    def stairs(self):
        random = np.random.default_rng([self.core, self.level])
        return int(random.integers(9, 12)), int(random.integers(31, 36))

    def step(self, action):
        key, before, ended = KEYS[action], self.score, False
        self.turns += key != MORE
        if key in MOVES:
            row, column = (a + b for a, b in zip(self.place, MOVES[key], strict=True))
            if 8 <= row < 12 and 30 <= column < 36:
                self.place = row, column
        if key == DOWN and self.place == self.stairs:
            self.score += 20
            ended = self.level == DEEPEST
            self.level, self.place = min(self.level + 1, DEEPEST), (8, 30)
        return self.observed(), float(self.score - before), ended, False, {}

    def observed(self):
        glyphs = np.full((21, 79), MAP, np.int16)
        glyphs[7:13, 29:37] = WALL
        glyphs[8:12, 30:36] = FLOOR
        glyphs[self.stairs] = STAIRS
        chars = np.full((24, 80), ord(" "), np.uint8)
        for sign, glyph in ((".", FLOOR), ("|", WALL), (">", STAIRS)):
            chars[1:22, :79][glyphs == glyph] = ord(sign)
        chars[self.place[0] + 1, self.place[1]] = ord("@")
        chars[23, :6] = np.frombuffer(f"Dlvl:{self.level}".encode(), np.uint8)
        blstats = np.zeros(27, np.int64)
        blstats[[1, 0]] = self.place
        blstats[[DEPTH, TURNS, SCORE]] = self.level, self.turns, self.score
        return {
            "glyphs": glyphs,
            "blstats": blstats,
            "misc": np.zeros(3, np.int32),
            "tty_chars": chars,
            "tty_colors": np.full((24, 80), 7, np.int8),
            "tty_cursor": np.array([self.place[0] + 1, self.place[1]], np.uint8),
        }

    def close(self):
        pass


def dungeon(game: Game):
    return Dungeon(game), KEYS


games = partial(NetHackGames, make=dungeon)
