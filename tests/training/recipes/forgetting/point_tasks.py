# SPDX-License-Identifier: Apache-2.0
"""Tasks with Meta-World's interface that take microseconds: a point on a line is led to a goal, and
half of the tasks turn the controls around."""

import numpy as np

from training.recipes.forgetting.robots import TaskStep

STRIDE, NEAR = 0.2, 0.15
NAMES = ("ahead", "around", "ahead again", "around again")


class PointTask:
    numbers, dimensions = 2, 1

    def __init__(self, name: str):
        self.sign = -1 if name.startswith("around") else 1
        self.closed = False

    def begin(self, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        side = random.choice([-1, 1])
        self.place, self.goal = float(random.uniform(0.3, 0.9) * side), 0.0
        return self._seen()

    def step(self, action_A: np.ndarray) -> TaskStep:
        self.place += self.sign * STRIDE * float(np.clip(action_A[0], -1, 1))
        away = float(abs(self.place - self.goal))
        return TaskStep(self._seen(), 10 * (1 - min(away, 1)), away < NEAR)

    def expert(self, observation_D: np.ndarray) -> np.ndarray:
        return np.clip(self.sign * (observation_D[1:] - observation_D[:1]) / STRIDE, -1, 1)

    def close(self) -> None:
        self.closed = True

    def _seen(self) -> np.ndarray:
        return np.array([self.place, self.goal])
