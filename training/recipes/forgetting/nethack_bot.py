# SPDX-License-Identifier: Apache-2.0
"""A simple player of NetHack, by rules: it fights what stands beside it, looks for stairs and goes
down.

    bot = Descender(keys)                    # one for each game
    action = bot.act(observation)            # NLE's own; the number of an action

It is deterministic. It stands in for AutoAscend, whose recordings the paper's teacher was cloned
from, and is far worse: it never prays, eats, or picks anything up, and searches walls only when it
knows of nothing else to do.

Legend: H rows, W columns of the map.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

X, Y, DEPTH, DUNGEON = 0, 1, 12, 23  # of blstats
MONSTERS, PETS, OBJECTS = (0, 381), (381, 762), (1144, 2359)  # ranges of glyphs
MAP = 2359  # the first glyph of the map's own signs
STONE, DOWN_STAIRS, DOWN_LADDER = 0, 24, 26
DOORS = (13, 14, 15, 16)
GROUND = (12, *DOORS, *range(19, 32), 33)  # doorways, floor, corridors, stairs, furniture, ice
MOVES = {  # key of each direction -> rows, columns
    ord("k"): (-1, 0), ord("l"): (0, 1), ord("j"): (1, 0), ord("h"): (0, -1),
    ord("u"): (-1, 1), ord("n"): (1, 1), ord("b"): (1, -1), ord("y"): (-1, -1),
}  # fmt: skip
MORE, DOWN, SEARCH = 13, ord(">"), ord("s")
PATIENCE = 3  # moves against something that does not give way
SEARCHES = 12  # in one place, before another is tried

Place = tuple[int, int]


class Descender:
    """See the module. keys: of the game's actions."""

    def __init__(self, keys: Sequence[int]):
        self.action_of = {key: number for number, key in enumerate(keys)}
        self.levels: dict[tuple[int, int], Level] = {}
        self.last: tuple[Place, Place] | None = None  # where it was, and wanted to go

    def act(self, observation: Any) -> int:
        """The number of the next action."""
        return self.action_of[self._key(observation)]

    def _key(self, observation: Any) -> int:
        if np.any(observation["misc"]):  # a question, or something to be read
            return MORE
        blstats, glyphs_HW = observation["blstats"], np.asarray(observation["glyphs"])
        here = int(blstats[Y]), int(blstats[X])
        level = self.levels.setdefault((int(blstats[DUNGEON]), int(blstats[DEPTH])), Level())
        level.visited.add(here)
        if self.last is not None and self.last[0] == here:
            level.bumps[self.last[1]] = level.bumps.get(self.last[1], 0) + 1
        self.last = None
        for key, (rows, columns) in MOVES.items():
            there = here[0] + rows, here[1] + columns
            patient = level.bumps.get(there, 0) < 10 * PATIENCE
            if patient and _inside(there, glyphs_HW) and within(glyphs_HW[there], MONSTERS):
                self.last = here, there
                return key
        level.look(glyphs_HW)
        if here in level.stairs:
            return DOWN
        key = level.way(here)
        if key is None:
            level.searched[here] = level.searched.get(here, 0) + 1
            if level.searched[here] > 10 * SEARCHES:  # whatever was in the way may be gone
                level.bumps.clear()
            return SEARCH
        rows, columns = MOVES[key]
        self.last = here, (here[0] + rows, here[1] + columns)
        return key


class Level:
    """What is known of one level."""

    def __init__(self):
        self.visited: set[Place] = set()
        self.stairs: set[Place] = set()
        self.bumps: dict[Place, int] = {}
        self.searched: dict[Place, int] = {}
        self.ground_HW = np.zeros((0, 0), bool)
        self.door_HW = self.unknown_HW = self.ground_HW

    def look(self, glyphs_HW: np.ndarray) -> None:
        """At the map as it is shown now."""
        sign_HW = np.where(glyphs_HW >= MAP, glyphs_HW - MAP, -1)
        loose_HW = within(glyphs_HW, OBJECTS) | within(glyphs_HW, PETS)
        self.ground_HW = np.isin(sign_HW, GROUND) | loose_HW
        self.door_HW = np.isin(sign_HW, DOORS)
        self.unknown_HW = sign_HW == STONE
        for place in np.argwhere(np.isin(sign_HW, (DOWN_STAIRS, DOWN_LADDER))):
            self.stairs.add((int(place[0]), int(place[1])))

    def way(self, here: Place) -> int | None:
        """The key of a first step: to stairs, else to the nearest place from which something may be
        seen, else to one that was searched little; None where that is here."""
        first, order = self._reached(here)
        stairs = [place for place in order if place in self.stairs]
        edges = [place for place in order if place not in self.visited and self._edge(place)]
        for goals in (stairs, edges):
            if goals:
                return first[goals[0]]
        if self.searched.get(here, 0) % SEARCHES:
            return None
        blind = [place for place in order if self._blind(place)]
        goal = min(blind or [here], key=lambda place: self.searched.get(place, 0))
        return None if goal == here else first[goal]

    def _reached(self, here: Place) -> tuple[dict[Place, int], list[Place]]:
        """The first key of a shortest way to each place, nearest first."""
        first: dict[Place, int] = {}
        order, queue, met = [], deque([here]), {here}
        while queue:
            place = queue.popleft()
            order.append(place)
            for key, (rows, columns) in MOVES.items():
                there = place[0] + rows, place[1] + columns
                if there in met or not _inside(there, self.ground_HW):
                    continue
                if not self.ground_HW[there] or self.bumps.get(there, 0) >= PATIENCE:
                    continue
                if rows and columns and (self.door_HW[place] or self.door_HW[there]):
                    continue  # nobody goes through a door slantwise
                met.add(there)
                first[there] = first.get(place, key)
                queue.append(there)
        return first, order

    def _around(self, place: Place) -> np.ndarray:
        row, column = place
        return self.unknown_HW[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]

    def _edge(self, place: Place) -> bool:
        return bool(self._around(place).any()) or bool(self.door_HW[place])

    def _blind(self, place: Place) -> bool:
        """A dead end, or beside a wall: something may be hidden there."""
        row, column = place
        beside_HW = self.ground_HW[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        return int(beside_HW.sum()) <= 6


def within(glyph: Any, span: tuple[int, int]) -> Any:
    """Whether a glyph, or each of them, lies in a range."""
    return (glyph >= span[0]) & (glyph < span[1])


def _inside(place: Place, of_HW: np.ndarray) -> bool:
    return 0 <= place[0] < of_HW.shape[0] and 0 <= place[1] < of_HW.shape[1]
