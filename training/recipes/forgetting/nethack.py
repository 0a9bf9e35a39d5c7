# SPDX-License-Identifier: Apache-2.0
"""NetHack as a Human Monk, in NLE: many games side by side, seen as a terminal shows them.

    with NetHackGames(Game(), 16, seed=0) as games:
        seen_B = games.reset()                       # Seen, [B, ...]
        stepped = games.step(action_B)
        games.visits()                               # since it was asked last

What is seen is the terminal's characters, colours and cursor and the action before, which the
recordings of NLD-AA have, too. `challenge` has the keyboard of the NetHack Challenge (121 actions,
menus and questions are the agent's affair), else it is NetHackScore's 23 actions. A reward is the
score's growth, clipped. A game is cut off after `limit` steps, or after `idle` of them in which the
game's clock has stood still.

NLE (1.3) cannot save a game. A game from far on is a seed and the actions that lead there, which
are played again (`Opening`): with its reseeding off NetHack does the same again.

CLOSE is the first level of the dungeon, FAR all below (2402.02868, section 4). Legend: B games.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.environments import Stepped

EXTRA = "pip install 'griffin-lm[nethack]'"
MONK = "mon-hum-neu-mal"
KEYS = ("glyphs", "blstats", "misc", "tty_chars", "tty_colors", "tty_cursor")
DEPTH, TURNS, SCORE = 12, 20, 9  # of blstats


class Seen(NamedTuple):
    """chars, colors: uint8 [..., 24, 80]; cursor: its row and column, int32 [..., 2]; action: the
    one before, int32 [...]."""

    chars: Any
    colors: Any
    cursor: Any
    action: Any


class Opening(NamedTuple):
    """A game's seed and its first actions."""

    seed: int
    actions: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game:
    """clip: of a reward, either way. far_depth: the first level of FAR."""

    challenge: bool = False
    character: str = MONK
    limit: int = 100_000
    idle: int = 150
    clip: float = 10.0
    far_depth: int = 2

    def __post_init__(self) -> None:
        if min(self.limit, self.idle) < 1 or self.far_depth < 2:
            raise UserError(
                f"limit={self.limit}, idle={self.idle}, far_depth={self.far_depth}: expected 1 "
                "step or more, and a level below the first"
            )


@dataclasses.dataclass
class Visits:
    """Steps, those of them in FAR; games that are over, their scores and deepest levels."""

    steps: int = 0
    far_steps: int = 0
    games: int = 0
    scores: float = 0.0
    depths: float = 0.0

    def shares(self) -> dict[str, float]:
        """`score` and `depth` of a game, `far` of steps; NaN of nothing."""
        games = self.games or float("nan")
        return {
            "score": self.scores / games,
            "depth": self.depths / games,
            "far": self.far_steps / (self.steps or float("nan")),
        }


def nethack_game(game: Game) -> tuple[Any, tuple[int, ...]]:
    """NLE's environment, and the keys of its actions.

    Raises UserError: nle is not installed.
    """
    try:
        tasks: Any = importlib.import_module("nle.env.tasks")
        nethack: Any = importlib.import_module("nle.nethack")
    except ImportError as error:
        raise UserError(f"NetHack is not installed ({error}): {EXTRA}") from None
    # NetHackChallenge is NetHackScore with these, and a lock on seeds.
    keyboard = {"actions": nethack.ACTIONS, "allow_all_yn_questions": True, "allow_all_modes": True}
    inner = tasks.NetHackScore(
        character=game.character,
        observation_keys=KEYS,
        max_episode_steps=game.limit,
        penalty_step=0.0,
        **(keyboard if game.challenge else {}),
    )
    return inner, tuple(int(action) for action in inner.actions)


class NetHackGames:
    """See the module. openings: where the games of this many environments begin, again and again;
    with none a game has a seed of its own. make: one environment and its keys."""

    def __init__(
        self,
        game: Game,
        count: int,
        *,
        seed: int,
        openings: Sequence[Opening] = (),
        make: Any = nethack_game,
    ):
        if openings and len(openings) != count:
            raise UserError(f"{len(openings)} openings of {count} games: give one for each")
        self.game, self.openings = game, openings
        self.random = np.random.default_rng(seed)
        made_of = [make(game) for _ in range(count)]
        self.inner = [inner for inner, _ in made_of]
        self.keys: tuple[int, ...] = made_of[0][1]
        self.policy = Categorical(actions=len(self.keys))
        self.now: list[Any] = [None] * count  # NLE's own observation of each
        self.action_B = np.zeros(count, np.int32)
        self.elapsed_B, self.idle_B = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.deepest_B, self.opened_B = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._visits = Visits()

    def __enter__(self) -> "NetHackGames":
        return self

    def __exit__(self, *unused: object) -> None:
        for one in self.inner:
            one.close()

    def reset(self) -> Seen:
        """New games everywhere."""
        for row in range(len(self.inner)):
            self._begin(row)
        self._visits = Visits()
        return self._seen()

    def step(self, action_B: np.ndarray) -> Stepped:
        """A step of each; where a game has ended, the next one's beginning."""
        count = len(self.inner)
        reward_B = np.zeros(count, np.float32)
        ended_B, cut_B = np.zeros(count, bool), np.zeros(count, bool)
        for row in range(count):
            depth, score = self.depth(row), self.score(row)
            reward_B[row], ended_B[row], cut_B[row] = self._play(row, int(action_B[row]))
            self.deepest_B[row] = max(depth, self.deepest_B[row])
            self._visits.far_steps += depth >= self.game.far_depth
            if ended_B[row] or cut_B[row]:
                # Of a game that is over the status is empty: its last growth is the reward.
                self._visits.games += 1
                self._visits.scores += score + float(reward_B[row])
                self._visits.depths += int(self.deepest_B[row])
                self._begin(row)
        self._visits.steps += count
        clipped_B = np.clip(reward_B, -self.game.clip, self.game.clip)
        seen = self._seen()
        return Stepped(seen, clipped_B, ended_B, cut_B, seen)

    def visits(self) -> Visits:
        """What was counted since this was asked last, or since `reset`."""
        counted, self._visits = self._visits, Visits()
        return counted

    def depth(self, row: int) -> int:
        """The level where a game is."""
        return int(self.now[row]["blstats"][DEPTH])

    def score(self, row: int) -> float:
        """Of a game so far."""
        return float(self.now[row]["blstats"][SCORE])

    def _begin(self, row: int) -> None:
        opening = self.openings[row] if self.openings else None
        seed = int(self.random.integers(2**31)) if opening is None else opening.seed
        self.inner[row].seed(core=seed, disp=seed, reseed=False)
        self._observed(row, self.inner[row].reset()[0])
        self.action_B[row], self.elapsed_B[row], self.idle_B[row] = 0, 0, 0
        for action in () if opening is None else opening.actions:
            self._play(row, action)
        self.deepest_B[row] = self.depth(row)

    def _play(self, row: int, action: int) -> tuple[float, bool, bool]:
        """Reward, whether the game is over, and whether it is cut off."""
        turns = self.now[row]["blstats"][TURNS]
        observation, reward, ended, _, _ = self.inner[row].step(action)
        self._observed(row, observation)
        self.action_B[row] = action
        self.elapsed_B[row] += 1
        still = self.now[row]["blstats"][TURNS] == turns
        self.idle_B[row] = self.idle_B[row] + 1 if still else 0
        cut = self.elapsed_B[row] >= self.game.limit or self.idle_B[row] >= self.game.idle
        return float(reward), bool(ended), bool(cut and not ended)

    def _observed(self, row: int, observation: Any) -> None:
        # NLE writes into what it gave before.
        self.now[row] = {name: np.array(observation[name]) for name in KEYS}

    def _seen(self) -> Seen:
        def column(name: str, kind: Any) -> np.ndarray:
            return np.stack([one[name] for one in self.now]).astype(kind)

        return Seen(
            column("tty_chars", np.uint8),
            column("tty_colors", np.uint8) & 15,
            column("tty_cursor", np.int32),
            self.action_B.copy(),
        )
