# SPDX-License-Identifier: Apache-2.0
"""Montezuma's Revenge on ale-py's emulator, whose states are kept and gone back to: episodes begin
at the game's start, or in a room that was reached before.

    with MontezumaEnvironments(Game(), 8, seed=0) as environments:
        observation_B = environments.reset()           # uint8 [B, 84, 84, 4]
        stepped = environments.step(action_B)
        environments.visits()                          # since it was asked last

As "Fine-tuning RL Models is Secretly a Forgetting Mitigation Problem" (2402.02868, table 2) has it:
4 grey frames of 84 x 84, 4 frames a step, sticky actions (a frame takes the action before with
probability 0.25), episodes of at most 4,500 steps. A reward is the sign of the points. ale-py's own
vector environment cannot be set to a state, so each emulator is stepped from here.

Legend: B environments, H W of a frame.
"""

import base64
import dataclasses
import importlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.environments import EXTRA, Stepped
from training.recipes.rl.host_environments import BegunAnew

SIDE, FRAMES, FRAME_SKIP = 84, 4, 4
SCREEN = 210, 160
ACTIONS = 18
ROOM, X, Y, LIVES, ITEMS, POINTS = 3, 42, 43, 58, 65, slice(19, 22)  # bytes of the game's memory


class Situation(NamedTuple):
    """What the game's memory says. items: a bit of each thing carried."""

    room: int
    x: int
    y: int
    lives: int
    items: int
    points: int


class Start(NamedTuple):
    """A state of the emulator as text, where it is, and the room from which it was entered (-1:
    the game's start)."""

    state: str
    situation: Situation
    entered_from: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game:
    """sticky: probability that a frame takes the action before. limit: steps of an episode."""

    sticky: float = 0.25
    limit: int = 4500

    def __post_init__(self) -> None:
        if not 0 <= self.sticky < 1 or self.limit < 1:
            raise UserError(
                f"sticky={self.sticky}, limit={self.limit}: expected a probability below 1, and 1 "
                "step or more"
            )


class Emulator:
    """One game; `picture` is of its last step."""

    def __init__(self, sticky: float, seed: int):
        try:
            ale_py: Any = importlib.import_module("ale_py")
            roms: Any = importlib.import_module("ale_py.roms")
        except ImportError as error:
            raise UserError(f"Montezuma: ale-py is not installed ({error}): {EXTRA}") from None
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.inner, self.state_of = ale_py.ALEInterface(), ale_py.ALEState
        self.inner.setInt("random_seed", seed % 2**31)
        self.inner.setFloat("repeat_action_probability", sticky)
        self.inner.loadROM(roms.get_rom_path("montezuma_revenge"))
        self.actions = self.inner.getLegalActionSet()
        self.screens = np.zeros((2, *SCREEN), np.uint8)

    def begin(self, state: str | None = None) -> None:
        """At the game's start, or at a state that was kept."""
        self.inner.reset_game()
        if state is not None:
            self.inner.restoreState(self.state_of(base64.b64decode(state)))
        self.inner.getScreenGrayscale(self.screens[0])
        self.screens[1] = self.screens[0]

    def step(self, action: int, *, seen: bool = True) -> float:
        """The points of FRAME_SKIP frames. seen: `picture` is asked for afterwards."""
        points = 0.0
        for number in range(FRAME_SKIP):
            points += self.inner.act(self.actions[action])
            if seen and number >= FRAME_SKIP - 2:
                self.inner.getScreenGrayscale(self.screens[number - FRAME_SKIP + 2])
        return points

    def kept(self) -> str:
        """The state, for `begin`."""
        return base64.b64encode(self.inner.cloneState().serialize()).decode()

    @property
    def ended(self) -> bool:
        return self.inner.game_over()

    @property
    def picture(self) -> np.ndarray:
        """Brighter of the last two frames, uint8 [84, 84]."""
        return smaller(self.screens.max(0))

    @property
    def situation(self) -> Situation:
        memory = self.inner.getRAM()
        room, x, y, lives, items = (int(memory[at]) for at in (ROOM, X, Y, LIVES, ITEMS))
        digits = [int(f"{byte:x}") for byte in memory[POINTS]]  # two decimal digits a byte
        return Situation(room, x, y, lives, items, digits[0] * 10_000 + digits[1] * 100 + digits[2])


def _means(old: int, new: int) -> np.ndarray:
    """Rows are the shares of `old` cells in each of `new` ones, float32 [new, old]."""
    edges = np.arange(new + 1) * old / new
    lower, upper = edges[:-1, None], edges[1:, None]
    cells = np.arange(old)[None]
    covered = np.clip(np.minimum(upper, cells + 1) - np.maximum(lower, cells), 0, None)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)


_ROWS, _COLUMNS = _means(SCREEN[0], SIDE), _means(SCREEN[1], SIDE).T


def smaller(screen_HW: np.ndarray) -> np.ndarray:
    """Means over areas, uint8 [84, 84]."""
    return np.rint(_ROWS @ screen_HW.astype(np.float32) @ _COLUMNS).astype(np.uint8)


@dataclasses.dataclass
class Visits:
    """Steps, those of them in FAR; episodes that are over, and their points; rooms."""

    steps: int = 0
    far_steps: int = 0
    episodes: int = 0
    points: float = 0.0
    rooms: set[int] = dataclasses.field(default_factory=set)

    def shares(self) -> dict[str, float]:
        """`score` of an episode, `far` of steps, and how many `rooms`; NaN of nothing."""
        return {
            "score": self.points / (self.episodes or float("nan")),
            "far": self.far_steps / (self.steps or float("nan")),
            "rooms": float(len(self.rooms)),
        }


class MontezumaEnvironments(BegunAnew):
    """See the module. starts: where episodes begin, each drawn; () is the game's start. far: rooms
    that are FAR. After `restore` episodes begin anew."""

    def __init__(
        self,
        game: Game,
        count: int,
        *,
        seed: int,
        starts: Sequence[Start] = (),
        far: Collection[int] = (),
    ):
        self.game, self.starts, self.far = game, starts, frozenset(far)
        self.observation_shape = (SIDE, SIDE, FRAMES)
        self.policy = Categorical(actions=ACTIONS)
        self.random = np.random.default_rng(seed)
        self.emulators = [Emulator(game.sticky, seed * 1000 + number) for number in range(count)]
        self.frames_B = np.zeros((count, *self.observation_shape), np.uint8)
        self.elapsed_B, self.points_B = np.zeros(count, np.int64), np.zeros(count)
        self._visits = Visits()

    def __enter__(self) -> "MontezumaEnvironments":
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def reset(self) -> np.ndarray:
        """New episodes everywhere."""
        for row in range(len(self.emulators)):
            self._begin(row)
        self._visits = Visits()
        return self.frames_B.copy()

    def step(self, action_B: np.ndarray) -> Stepped:
        """A step of each; where an episode has ended, the next one's beginning."""
        count = len(self.emulators)
        reward_B, ended_B = np.zeros(count, np.float32), np.zeros(count, bool)
        for row, emulator in enumerate(self.emulators):
            points = emulator.step(int(action_B[row]))
            reward_B[row], ended_B[row] = np.sign(points), emulator.ended
            self.points_B[row] += points
            self.frames_B[row, ..., :-1] = self.frames_B[row, ..., 1:]
            self.frames_B[row, ..., -1] = emulator.picture
            room = emulator.situation.room
            self._visits.rooms.add(room)
            self._visits.far_steps += room in self.far
        self.elapsed_B += 1
        self._visits.steps += count
        cut_B = (self.elapsed_B >= self.game.limit) & ~ended_B
        final_B = self.frames_B.copy()
        for row in np.flatnonzero(ended_B | cut_B):
            self._visits.episodes += 1
            self._visits.points += float(self.points_B[row])
            self._begin(int(row))
        return Stepped(self.frames_B.copy(), reward_B, ended_B, cut_B, final_B)

    def visits(self) -> Visits:
        """What was counted since this was asked last, or since `reset`."""
        counted, self._visits = self._visits, Visits()
        return counted

    def _begin(self, row: int) -> None:
        start = self.starts[int(self.random.integers(len(self.starts)))] if self.starts else None
        self.put(row, start)

    def put(self, row: int, start: Start | None) -> None:
        """One environment, to a start."""
        self.emulators[row].begin(None if start is None else start.state)
        self.frames_B[row] = self.emulators[row].picture[..., None]
        self.elapsed_B[row], self.points_B[row] = 0, 0
