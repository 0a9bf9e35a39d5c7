# SPDX-License-Identifier: Apache-2.0
"""Ways through Montezuma's rooms without a trained agent: a search that goes back to states.

    archive = explore(steps=200_000, seed=0)
    archive.way()                     # rooms in the order in which the furthest trail visits them
    archive.starts(archive.far(4))    # one state at the door of each room of FAR
    archive.demonstrations(archive.far(4), 20)

The paper's rooms and its 500 recorded episodes come from an agent of 7,000 points, which is not to
be had here. In its place a search as in Go-Explore (Ecoffet et al., 2021): a cell is a place, the
room and what is carried; a cell that was chosen seldom is gone back to, and random actions, each
held for a while, go on from there. It reads the game's memory and the emulator is deterministic, so
that a trail is a list of actions which comes to the same end again.

Legend: N states of demonstrations.
"""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints.files import naming, new_file
from recurrentgemma.errors import UserError
from training.recipes.forgetting.montezuma import (
    ACTIONS,
    FRAMES,
    SIDE,
    Emulator,
    Situation,
    Start,
)

GRID = 16  # side of a cell, of the game's own units
STRETCH = 40  # actions of a look around
HELD = 6  # actions of one kind in a row, in the mean
ROOT = -1


class Trail(NamedTuple):
    """A state, the trail it goes on from (ROOT: the game's start) and the actions since."""

    start: Start
    parent: int
    actions: tuple[int, ...]
    achieved: bool
    """Entered a room or earned points since its parent."""


class Demonstrations(NamedTuple):
    """Of trails in FAR, one after another; episode_N: which, from 0."""

    observation_N: Any
    action_N: Any
    episode_N: Any


class Archive(NamedTuple):
    """Trails in the order of their discovery."""

    trails: Sequence[Trail]

    def path(self, number: int) -> list[int]:
        """The trails from the game's start to this one."""
        numbers = []
        while number != ROOT:
            numbers.append(number)
            number = self.trails[number].parent
        return numbers[::-1]

    def way(self) -> list[int]:
        """Rooms in the order of visiting, of the trail that visits most."""
        ways = [self._rooms(number) for number, trail in enumerate(self.trails) if trail.achieved]
        return max(ways, key=len, default=[self.trails[0].start.situation.room])

    def far(self, first: int) -> list[int]:
        """The rooms of the way from the `first` on, counted from 1."""
        return self.way()[first - 1 :]

    def starts(self, rooms: Collection[int]) -> list[Start]:
        """The first state that was met in each of these rooms."""
        met: dict[int, Start] = {}
        for trail in self.trails:
            met.setdefault(trail.start.situation.room, trail.start)
        return [met[room] for room in rooms if room in met]

    def demonstrations(self, rooms: Collection[int], episodes: int) -> Demonstrations:
        """Trails from where they enter one of these rooms on, those of the latest achievements; as
        an agent sees them."""
        ends = [
            number
            for number, trail in enumerate(self.trails)
            if trail.achieved and trail.parent != ROOT
        ]
        shown = []
        for end in reversed(ends):
            path = self.path(end)
            inside = [self.trails[number].start.situation.room in rooms for number in path]
            if any(inside[:-1]):
                shown.append(path[inside.index(True) :])
            if len(shown) == episodes:
                break
        emulator, rows = Emulator(0.0, 0), []
        for number, path in enumerate(shown):
            actions = [action for one in path[1:] for action in self.trails[one].actions]
            emulator.begin(self.trails[path[0]].start.state)
            frames = np.repeat(emulator.picture[..., None], FRAMES, -1)
            for action in actions:
                rows.append((frames, action, number))
                emulator.step(action)
                frames = np.concatenate([frames[..., 1:], emulator.picture[..., None]], -1)
        if not rows:
            nothing = np.zeros(0, np.int32)
            return Demonstrations(np.zeros((0, SIDE, SIDE, FRAMES), np.uint8), nothing, nothing)
        observation_N, action_N, episode_N = (np.stack(x) for x in zip(*rows, strict=True))
        return Demonstrations(observation_N, action_N.astype(np.int32), episode_N.astype(np.int32))

    def _rooms(self, number: int) -> list[int]:
        rooms = [self.trails[one].start.situation.room for one in self.path(number)]
        return list(dict.fromkeys(rooms))


def cell_of(situation: Situation) -> tuple[int, ...]:
    """What counts as one place."""
    room, x, y, _, items, _ = situation
    return room, x // GRID, y // GRID, items


def explore(*, steps: int, seed: int) -> Archive:
    """A search of so many steps of the emulator, all looks around together."""
    random, emulator = np.random.default_rng(seed), Emulator(0.0, seed)
    emulator.begin()
    first = emulator.situation
    trails = [Trail(Start(emulator.kept(), first, -1), ROOT, (), False)]
    cells, chosen, taken = {cell_of(first)}, [0], 0
    regions = {(first.room, first.items): [0]}
    while taken < steps:
        # A room with what is carried is drawn first: most of the search is at the frontier then.
        region = list(regions.values())[random.integers(len(regions))]
        weights = 1 / np.sqrt(1 + np.asarray([chosen[number] for number in region]))
        origin = int(random.choice(region, p=weights / weights.sum()))
        chosen[origin] += 1
        start = trails[origin].start
        emulator.begin(start.state)
        before, since, parent = start, [], origin
        action = int(random.integers(ACTIONS))
        for _ in range(STRETCH):
            if random.random() < 1 / HELD:
                action = int(random.integers(ACTIONS))
            emulator.step(action, seen=False)
            since.append(action)
            taken += 1
            now = emulator.situation
            if emulator.ended or now.lives < before.situation.lives:
                break
            if (cell := cell_of(now)) in cells:
                continue
            entered = now.room != before.situation.room
            achieved = entered or now.points > before.situation.points
            entered_from = before.situation.room if entered else before.entered_from
            before = Start(emulator.kept(), now, entered_from)
            trails.append(Trail(before, parent, tuple(since), achieved))
            parent, since = len(trails) - 1, []
            cells.add(cell)
            regions.setdefault((now.room, now.items), []).append(parent)
            chosen.append(0)
    return Archive(trails)


def kept_archive(path: Path, search: Callable[[], Archive]) -> Archive:
    """The archive in a file, or what the search gives, kept there. Raises UserError: the file is
    damaged."""
    if path.is_file():
        try:
            rows = json.loads(path.read_text("utf-8"))
            return Archive(
                [
                    Trail(Start(state, Situation(*at), door), parent, tuple(actions), achieved)
                    for (state, at, door), parent, actions, achieved in rows
                ]
            )
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): remove it, and search anew") from None
    archive = search()
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), new_file(path) as unfinished:
        unfinished.write_text(json.dumps(archive.trails), "utf-8")
    return archive
