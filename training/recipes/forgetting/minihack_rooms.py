# SPDX-License-Identifier: Apache-2.0
"""Two rows of rooms in a NetHack level: the way leads east through the upper row (CLOSE), down, and
back west through the lower row (FAR) to the staircase. Text and numbers alone, without MiniHack.

    rooms = Rooms(columns=3)
    print("\\n".join(rooms.lines))            # the map
    rooms.expert_HW[row, column]             # the action of a shortest way, by breadth-first search
    rooms.description(rooms.start)           # the level as MiniHack takes it

A wall between two rooms has one gap, in a place that the number of the layout draws. What an agent
sees of both rows is alike and asks for opposite directions, as in AppleRetrieval (apples.py): so
what is learned in CLOSE can undo what is known of FAR. The rows differ in what lies beyond their
walls. Where a view reaches so far from everywhere, no two places look the same and ask for
different actions; where it does not, a few do (`conflicts`).

Legend: H rows and W columns of the map, C side of what is seen, P planes of it.
"""

import dataclasses
from collections import deque
from functools import cached_property

import numpy as np

from recurrentgemma.errors import UserError

WALLS, FLOOR, STAIRCASE, NOTHING = "|-", ".", ">", " "
ACTIONS = ("N", "E", "S", "W")
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # of the actions: rows, columns
PLANES = 3  # walls, ground, the staircase; nothing is 0 everywhere
Place = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rooms:
    """columns: rooms of each row. side: of a room. layout: draws the gaps."""

    columns: int = 3
    side: int = 3
    layout: int = 0

    def __post_init__(self) -> None:
        if not (self.columns >= 1 and self.side >= 2 and self.width <= 75 and self.height <= 19):
            raise UserError(
                f"{self.columns} columns of rooms with a side of {self.side}: expected 1 or more "
                "with 2 or more, in a map of at most 75 x 19 (this is "
                f"{self.width} x {self.height})"
            )

    @property
    def width(self) -> int:
        return self.columns * (self.side + 1) + 1

    @property
    def height(self) -> int:
        return 2 * (self.side + 1) + 1

    @property
    def count(self) -> int:
        """Rooms, in the order of the way."""
        return 2 * self.columns

    @property
    def start(self) -> Place:
        """The first room's far corner."""
        return 1, 1

    @property
    def staircase(self) -> Place:
        """The last room's far corner."""
        return self.height - 2, 1

    @property
    def gap(self) -> Place:
        """Between the rows, where FAR begins."""
        row = self.side + 1
        return row, self.lines[row].index(FLOOR)

    @property
    def far_start(self) -> Place:
        """Below that gap, in the first room of FAR."""
        row, column = self.gap
        return row + 1, column

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The map, the staircase in it."""
        random, pitch = np.random.default_rng(self.layout), self.side + 1
        drawn = np.full((self.height, self.width), FLOOR)
        drawn[:, ::pitch] = "|"
        drawn[::pitch] = "-"
        for column in range(pitch, self.width - 1, pitch):
            for top in (1, pitch + 1):
                drawn[top + random.integers(self.side), column] = FLOOR
        drawn[pitch, self.width - 2 - random.integers(self.side)] = FLOOR
        drawn[self.staircase] = STAIRCASE
        return tuple("".join(row) for row in drawn)

    @cached_property
    def ground_HW(self) -> np.ndarray:
        """Where one can stand."""
        return np.array([[mark in (FLOOR, STAIRCASE) for mark in line] for line in self.lines])

    @cached_property
    def room_HW(self) -> np.ndarray:
        """The number of the room along the way, from 0; a gap is of the room that it leads to, and
        a wall has -1."""
        pitch, last = self.side + 1, self.columns - 1
        row, column = np.indices((self.height, self.width))
        upper = np.minimum((column) // pitch, last)
        lower = self.columns + last - np.clip((column - 1) // pitch, 0, last)
        return np.where(self.ground_HW, np.where(row < pitch, upper, lower), -1)

    @property
    def far_HW(self) -> np.ndarray:
        """The second half of the way."""
        return self.room_HW >= self.columns

    @cached_property
    def distance_HW(self) -> np.ndarray:
        """Steps to the staircase; -1 in a wall."""
        distance = np.full((self.height, self.width), -1)
        distance[self.staircase] = 0
        queue = deque([self.staircase])
        while queue:
            row, column = queue.popleft()
            for down, right in MOVES:
                place = row + down, column + right
                if self.ground_HW[place] and distance[place] < 0:
                    distance[place] = distance[row, column] + 1
                    queue.append(place)
        return distance

    @cached_property
    def expert_HW(self) -> np.ndarray:
        """The first action, in the order of ACTIONS, that leads nearer; -1 in a wall, and 0 on the
        staircase, where an episode is over."""
        action = np.full((self.height, self.width), -1)
        for row, column in np.argwhere(self.ground_HW):
            nearer = [
                number
                for number, (down, right) in enumerate(MOVES)
                if self.distance_HW[row + down, column + right] == self.distance_HW[row, column] - 1
                and self.ground_HW[row + down, column + right]
            ]
            action[row, column] = nearer[0] if nearer else 0
        return action

    def conflicts(self, view: int) -> int:
        """How many views of this side are of places in both rows, with different actions."""
        margin = view // 2
        marks_HW = np.array([[ord(mark) for mark in line] for line in self.lines])
        padded = np.pad(marks_HW, margin, constant_values=ord(NOTHING))
        wanted: dict[bytes, set[tuple[bool, int]]] = {}
        for row, column in np.argwhere(self.ground_HW):
            seen = planes(padded[None, row : row + view, column : column + view]).tobytes()
            of_place = bool(self.far_HW[row, column]), int(self.expert_HW[row, column])
            wanted.setdefault(seen, set()).add(of_place)
        return sum(
            len({far for far, _ in of_view}) > 1 and len({action for _, action in of_view}) > 1
            for of_view in wanted.values()
        )

    def description(self, start: Place) -> str:
        """The level in NetHack's language of special levels: lit, known from the beginning (as
        Sokoban's are), without monsters. start: where an episode begins."""
        (row, column), (below, right) = start, self.staircase
        drawn = "\n".join(line.replace(STAIRCASE, FLOOR) for line in self.lines)
        return (
            "MAZE: \"mylevel\", ' '\nFLAGS: noteleport,hardfloor,premapped\n"
            f"GEOMETRY: center,center\nMAP\n{drawn}\nENDMAP\n"
            f'REGION: (0,0,{self.width - 1},{self.height - 1}),lit,"ordinary"\n'
            f"BRANCH: ({column},{row},{column},{row}),(0,0,0,0)\n"
            f"STAIR: ({right},{below}),down\n"
        )


def planes(chars_BCC: np.ndarray) -> np.ndarray:
    """Characters around the agent, which stands in the middle -> float32 [B, C, C, P] of 0 and 1.

    Ground is whatever is neither wall, staircase nor nothing: the agent stands on it, too.
    """
    wall = np.isin(chars_BCC, [ord(mark) for mark in WALLS])
    staircase = chars_BCC == ord(STAIRCASE)
    ground = ~wall & ~staircase & (chars_BCC != ord(NOTHING))
    return np.stack([wall, ground, staircase], -1).astype(np.float32)
