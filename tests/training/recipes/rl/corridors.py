# SPDX-License-Identifier: Apache-2.0
"""A corridor outside of the program, for tests: going right pays at its end, and the cue of the
first step, which says which end, is seen only there."""

import numpy as np

from training.recipes.rl.environments import Stepped

LENGTH = 3


class Corridors:
    """A cue (0 or 1) at the first step, then nothing; the action of the last step should be the
    cue. Observations [B, 2]: cue, -1 or 1 at the first step, and whether it is the last."""

    def __init__(self, count: int, seed: int):
        self.random, self.count, self.closed = np.random.default_rng(seed), count, False

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.closed = True

    def reset(self):
        self.at_B = np.zeros(self.count, np.int64)
        self.cue_B = self.random.integers(2, size=self.count)
        return self.seen()

    def seen(self):
        cue_B = np.where(self.at_B == 0, 2 * self.cue_B - 1, 0)
        return np.stack([cue_B, self.at_B == LENGTH - 1], -1).astype(np.float32)

    def step(self, action_B):
        ended_B = self.at_B == LENGTH - 1
        reward_B = (ended_B & (action_B == self.cue_B)).astype(np.float32)
        self.at_B = np.where(ended_B, 0, self.at_B + 1)
        self.cue_B = np.where(ended_B, self.random.integers(2, size=self.count), self.cue_B)
        seen = self.seen()
        return Stepped(seen, reward_B, ended_B, np.zeros(self.count, bool), seen)
