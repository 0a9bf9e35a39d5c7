# SPDX-License-Identifier: Apache-2.0
"""The rooms of minihack_rooms.py in MiniHack, through gymnasium's vector interface.

    with minihack_environments(task, 16, seed=0) as environments:
        observation_BCCP = environments.reset()
        stepped = environments.step(action_B)
        environments.expert()                    # the action of a shortest way of each, [B]
        environments.visits()                    # since it was asked last

An agent sees the characters around it as planes, and goes north, east, south or west; with
probability `slip` a drawn action is taken in place of its own. For each step that leads nearer to
the staircase than any before in its episode it earns 1 / (steps of the whole way), so that a whole
way earns 1. An episode ends at the staircase, where its last observation is empty, or is cut off
after `limit` steps. NetHack's state cannot be saved: after `restore` episodes begin anew.

Legend: B environments, C side of what is seen, P its planes.
"""

import dataclasses
import importlib
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.forgetting.minihack_rooms import (
    ACTIONS,
    NOTHING,
    PLANES,
    Place,
    Rooms,
    planes,
)
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.environments import Stepped
from training.recipes.rl.host_environments import BegunAnew

NAME = "MiniHack-Navigation-Custom-v0"
EXTRA = "pip install 'griffin-lm[nethack]'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """view: side of the square that is seen. from_far: episodes begin in FAR."""

    rooms: Rooms = dataclasses.field(default_factory=lambda: Rooms(columns=3, side=4))
    view: int = 5
    slip: float = 0.1
    limit: int = 80
    from_far: bool = False

    def __post_init__(self) -> None:
        if self.view % 2 != 1 or not 0 <= self.slip <= 1 or self.limit < 1:
            raise UserError(
                f"view={self.view}, slip={self.slip}, limit={self.limit}: expected an odd side, a "
                "probability, and 1 step or more"
            )

    @property
    def start(self) -> Place:
        """Where an episode begins."""
        return self.rooms.far_start if self.from_far else self.rooms.start


@dataclasses.dataclass
class Visits:
    """Steps, those of them in FAR; episodes that are over, that reached FAR, and the staircase."""

    steps: int = 0
    far_steps: int = 0
    episodes: int = 0
    reached_far: int = 0
    solved: int = 0

    def shares(self) -> dict[str, float]:
        """`success` and `reached_far` of episodes, `far` of steps; NaN of nothing."""
        episodes = self.episodes or float("nan")
        return {
            "success": self.solved / episodes,
            "reached_far": self.reached_far / episodes,
            "far": self.far_steps / (self.steps or float("nan")),
        }


class RoomEnvironments(BegunAnew):
    """See the module. inner: of gymnasium's vector interface, with `chars_crop` and `blstats`."""

    def __init__(self, inner: Any, task: Task, *, seed: int):
        self.inner, self.task, self.seed = inner, task, seed
        self.observation_shape = (task.view, task.view, PLANES)
        self.policy = Categorical(actions=len(ACTIONS))
        self.random = np.random.default_rng(seed)
        self._visits = Visits()

    def __enter__(self) -> "RoomEnvironments":
        return self

    def __exit__(self, *unused: object) -> None:
        self.inner.close()

    def reset(self) -> np.ndarray:
        """New episodes everywhere."""
        observation, _ = self.inner.reset(seed=self.seed)
        # NetHack places a map where it likes; an agent's first place says where.
        self.corner_B2 = _places(observation["blstats"]) - np.array(self.task.start)
        self.place_B2 = self._in_map(observation["blstats"])
        self.nearest_B = self.task.rooms.distance_HW[tuple(self.place_B2.T)]
        self._visits = Visits()
        return planes(observation["chars_crop"])

    def step(self, action_B: np.ndarray) -> Stepped:
        """A step of each; where an episode has ended, the next one's beginning."""
        rooms = self.task.rooms
        drawn_B = self.random.integers(len(ACTIONS), size=len(action_B))
        slips_B = self.random.random(len(action_B)) < self.task.slip
        observation, reward_B, terminated_B, truncated_B, info = self.inner.step(
            np.where(slips_B, drawn_B, action_B)
        )
        done_B = terminated_B | truncated_B
        last = {name: observation[name].copy() for name in ("chars_crop", "blstats")}
        for row in np.flatnonzero(truncated_B):
            for name, values in last.items():
                values[row] = info["final_obs"][row][name]
        # On the staircase NetHack is over: what it shows then is its farewell.
        last["chars_crop"][terminated_B] = ord(NOTHING)
        place_B2 = self._in_map(last["blstats"])
        place_B2[terminated_B] = rooms.staircase
        solved_B = terminated_B & (np.asarray(reward_B) > 0)
        nearest_B = np.minimum(self.nearest_B, rooms.distance_HW[tuple(place_B2.T)])
        earned_B = (self.nearest_B - nearest_B) / rooms.distance_HW[rooms.start]
        self._count(rooms.far_HW[tuple(place_B2.T)], nearest_B, done_B, solved_B)
        self.place_B2 = self._in_map(observation["blstats"])
        self.nearest_B = np.where(done_B, rooms.distance_HW[tuple(self.place_B2.T)], nearest_B)
        return Stepped(
            planes(observation["chars_crop"]),
            earned_B.astype(np.float32),
            np.asarray(terminated_B),
            np.asarray(truncated_B),
            planes(last["chars_crop"]),
        )

    def expert(self) -> np.ndarray:
        """The action of a shortest way from where each is, [B]."""
        return self.task.rooms.expert_HW[tuple(self.place_B2.T)]

    def far(self) -> np.ndarray:
        """Whether each is in FAR, [B]."""
        return self.task.rooms.far_HW[tuple(self.place_B2.T)]

    def visits(self) -> Visits:
        """What was counted since this was asked last, or since `reset`."""
        counted, self._visits = self._visits, Visits()
        return counted

    def _in_map(self, blstats_BN: np.ndarray) -> np.ndarray:
        return _places(blstats_BN) - self.corner_B2

    def _count(
        self, far_B: np.ndarray, nearest_B: np.ndarray, done_B: np.ndarray, solved_B: np.ndarray
    ) -> None:
        visits, rooms = self._visits, self.task.rooms
        in_gap = rooms.distance_HW[rooms.gap]  # there is no other way into FAR
        visits.steps += len(far_B)
        visits.far_steps += int(np.sum(far_B))
        visits.episodes += int(np.sum(done_B))
        visits.reached_far += int(np.sum(done_B & (nearest_B <= in_gap)))
        visits.solved += int(np.sum(solved_B))


def minihack_environments(task: Task, count: int, *, seed: int) -> RoomEnvironments:
    """`count` of them.

    Raises UserError: nle or minihack is not installed.
    """
    try:
        import gymnasium

        importlib.import_module("minihack")  # it registers its environments
        nethack: Any = importlib.import_module("nle.nethack")
    except ImportError as error:
        raise UserError(f"MiniHack is not installed ({error}): {EXTRA}") from None

    def copying(inner: Any) -> Any:
        # NLE writes into what it gave before, and so would change an episode's last observation.
        return gymnasium.wrappers.TransformObservation(
            inner,
            lambda observation: {name: values.copy() for name, values in observation.items()},
            inner.observation_space,
        )

    inner = gymnasium.make_vec(
        NAME,
        wrappers=(copying,),
        num_envs=count,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        des_file=task.rooms.description(task.start),
        observation_keys=("chars_crop", "blstats"),
        obs_crop_h=task.view,
        obs_crop_w=task.view,
        actions=tuple(int(getattr(nethack.CompassDirection, name)) for name in ACTIONS),
        max_episode_steps=task.limit,
        penalty_step=0.0,
        savedir=None,
    )
    return RoomEnvironments(inner, task, seed=seed)


def _places(blstats_BN: np.ndarray) -> np.ndarray:
    """Row and column of each agent in the level, [B, 2]."""
    return np.asarray(blstats_BN)[:, [1, 0]].astype(np.int64)
