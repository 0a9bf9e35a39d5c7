# SPDX-License-Identifier: Apache-2.0
"""The rooms without MiniHack, for tests: the part of gymnasium's vector interface that
forgetting/minihack.py uses, over the map's own text."""

import numpy as np

from training.recipes.forgetting.minihack import RoomEnvironments, Task
from training.recipes.forgetting.minihack_rooms import MOVES

CORNER = np.array([5, 30])  # of the map in a level


class Walkers:
    """Agents that go where there is ground; on the staircase, or at the limit, they begin anew."""

    def __init__(self, task: Task, count: int):
        self.task, self.count = task, count
        self.place_B2 = np.tile(task.start, (count, 1))
        self.steps_B = np.zeros(count, np.int64)
        lines, margin = task.rooms.lines, task.view // 2
        characters = np.array([[ord(mark) for mark in line] for line in lines], np.uint8)
        self.padded = np.pad(characters, margin, constant_values=ord(" "))

    def reset(self, *, seed):
        del seed
        self.place_B2[:], self.steps_B[:] = self.task.start, 0
        return self.observed(), {}

    def step(self, action_B):
        to_B2 = self.place_B2 + np.array(MOVES)[action_B]
        free_B = self.task.rooms.ground_HW[tuple(to_B2.T)]
        self.place_B2 = np.where(free_B[:, None], to_B2, self.place_B2)
        self.steps_B += 1
        solved_B = (self.place_B2 == self.task.rooms.staircase).all(1)
        cut_B = self.steps_B >= self.task.limit
        last, done_B = self.observed(), solved_B | cut_B
        for of_all in last.values():
            of_all[solved_B] = 0  # NetHack is over
        last["chars_crop"][solved_B] = ord(" ")
        final = [{name: x[row] for name, x in last.items()} for row in range(self.count)]
        self.place_B2[done_B], self.steps_B[done_B] = self.task.start, 0
        return self.observed(), solved_B.astype(float), solved_B, cut_B, {"final_obs": final}

    def observed(self):
        view = self.task.view
        crops = [self.padded[r : r + view, c : c + view].copy() for r, c in self.place_B2]
        for crop in crops:
            crop[view // 2, view // 2] = ord("@")
        blstats = np.zeros((self.count, 27), np.int64)
        blstats[:, [1, 0]] = self.place_B2 + CORNER
        return {"chars_crop": np.stack(crops), "blstats": blstats}

    def close(self):
        pass


def environments(task: Task, count: int, *, seed: int) -> RoomEnvironments:
    return RoomEnvironments(Walkers(task, count), task, seed=seed)
