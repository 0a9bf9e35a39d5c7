# SPDX-License-Identifier: Apache-2.0
"""A run of Montezuma's Revenge: ways through the rooms are searched, those in FAR are copied, and
PPO with curiosity goes on from the copy at the game's start, with or without what holds it.

Measured, evenly: `return` (of rewards' signs), `score`, `rooms` and `far` of the episodes of
training; the losses and `novelty`; `room_success`, the share of tries from the doors of the rooms
of FAR that earn points, gain an item or leave by another way than they came, within `tried_steps`
and alive; on the copied trails `likelihood` of their actions. `before` has the last two of the
policy that the run begins with.

Legend: N stored states, M of a minibatch, B environments.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.dynamic.retention import Weight, categorical_fisher, categorical_kl, distance
from recurrentgemma.errors import UserError
from training.recipes.experiment import Cell
from training.recipes.forgetting.copies import fitted
from training.recipes.forgetting.minihack_clone import Method
from training.recipes.forgetting.montezuma import (
    ACTIONS,
    FRAMES,
    SIDE,
    Game,
    MontezumaEnvironments,
    Start,
)
from training.recipes.forgetting.montezuma_rooms import (
    Archive,
    Demonstrations,
    explore,
    kept_archive,
)
from training.recipes.forgetting.short_runs import watched
from training.recipes.rl.curious_ppo import CuriousChoices, CuriousPPO, CuriousState, HeldStates
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.host_loop import HostLoop, Schedule
from training.recipes.rl.recurrent_host import drawn_rows

NO_WEIGHT = Weight(start=0.0)
POLICY, SHAPE = Categorical(actions=ACTIONS), (SIDE, SIDE, FRAMES)
COPIED_STATES = 128  # of an update of the copy
HELD_STATES = 128  # of an update, of those that BC holds
FISHER_STATES = 64
SCORED = 256  # stored states that the likelihood is of
SHOWN = ("return", "score", "held_loss", "novelty", "likelihood", "room_success")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MontezumaArm:
    """searched: steps of the search, the same one for all seeds. first_far: the room that FAR
    begins with, counted along the way. shown: trails that are copied. copied: updates of the copy.
    critic_updates: in which the values alone are trained. warmed: steps of random actions before
    the first update, for the mean of frames. tries: from each door at a measurement."""

    begins: Literal["scratch", "copy"] = "copy"
    method: Method = "none"
    weight: Weight = NO_WEIGHT
    game: Game = dataclasses.field(default_factory=Game)
    choices: CuriousChoices = dataclasses.field(default_factory=CuriousChoices)
    schedule: Schedule
    searched: int = 150_000
    search_seed: int = 1
    first_far: int = 3
    shown: int = 20
    copied: int = 200
    critic_updates: int = 0
    warmed: int = 50
    tries: int = 4
    tried_steps: int = 200

    def __post_init__(self) -> None:
        self.schedule.check(self.choices.environments, self.choices.rollout)
        if self.begins == "scratch" and self.method != "none":
            raise UserError(f"method={self.method!r} without a copy to be held to: expected none")

    @property
    def teaching(self) -> "MontezumaArm":
        """What the arms of one copy have in common."""
        return dataclasses.replace(
            self, begins="copy", method="none", weight=NO_WEIGHT, critic_updates=0,
            schedule=dataclasses.replace(self.schedule, steps=1, measured=1),
        )  # fmt: skip


class Teaching(NamedTuple):
    """The rooms of FAR in the order of the way, their doors, the trails there, and the copy."""

    far: Sequence[int]
    doors: Sequence[Start]
    stored: Demonstrations
    params: Any


def taught(arm: MontezumaArm, seed: int, folder: Path) -> Teaching:
    """The copy of a seed; what was searched is kept in the folder for the next arms."""
    archive: Archive = kept_archive(
        folder / f"archive-{arm.searched}-{arm.search_seed}.json",
        lambda: explore(steps=arm.searched, seed=arm.search_seed),
    )
    far = archive.far(arm.first_far)
    stored = archive.demonstrations(far, arm.shown)
    if not len(stored.action_N):
        raise UserError(
            f"the search of {arm.searched:,} steps came through rooms {archive.way()}, and knows "
            f"no trail on from room number {arm.first_far} of them: search longer, or begin FAR "
            "before"
        )
    agent = CuriousPPO(arm.choices, SHAPE, POLICY)
    start = jax.jit(lambda key: agent.start(key).params)(jax.random.key(seed))

    def loss(params: Any, batch: Demonstrations) -> jax.Array:
        outputs_MA = agent.judge(params, batch.observation_N)[0]
        return -jnp.mean(POLICY.log_prob(outputs_MA, batch.action_N))

    params = fitted(loss, start, stored, updates=arm.copied, rows=COPIED_STATES, seed=seed)
    return Teaching(far, archive.starts(far), stored, params)


def retention(
    agent: CuriousPPO, teaching: Teaching, method: Method, weight: Weight, seed: int
) -> tuple[HeldStates | None, Callable[[int], Any] | None]:
    """`held` and `beside` of the agent; of the policy alone, the values have no part in it."""
    teacher, stored_N = teaching.params, teaching.stored.observation_N
    if method == "none":
        return None, None
    if method == "ewc":
        rows = np.linspace(0, len(stored_N) - 1, FISHER_STATES).astype(int)
        fisher = jax.jit(categorical_fisher, static_argnums=0)(
            lambda params, one: agent.judge(params, one[None])[0][0],
            teacher,
            jnp.asarray(stored_N[rows]),
            key=jax.random.key(seed),
        )

        def ewc(params: Any, observation_M: Any, beside: Any, number: Any) -> jax.Array:
            del observation_M
            return weight.at(number) * distance(params, *beside)

        return ewc, lambda number: (teacher, fisher)

    def kl(params: Any, observation_M: jax.Array, beside: Any, number: jax.Array) -> jax.Array:
        frozen, stored_M = beside
        observation_M = observation_M if stored_M is None else stored_M
        outputs = (agent.judge(one, observation_M)[0] for one in (frozen, params))
        return weight.at(number) * jnp.mean(categorical_kl(*outputs))

    drawn = drawn_rows(stored_N, min(HELD_STATES, len(stored_N)), seed)
    return kl, lambda number: (teacher, drawn(number) if method == "bc" else None)


class Scores:
    """What is measured of parameters beside their training."""

    def __init__(self, arm: MontezumaArm, teaching: Teaching, seed: int):
        self.arm, self.teaching, self.seed = arm, teaching, seed
        self.agent = CuriousPPO(arm.choices, SHAPE, POLICY)
        count = len(teaching.doors) * arm.tries
        self.games = MontezumaEnvironments(arm.game, count, seed=seed)
        self._act = jax.jit(
            lambda params, observation_B, key: POLICY.sample(
                self.agent.judge(params, observation_B)[0], key
            )
        )
        self._likelihood = jax.jit(
            lambda params, observation_N, action_N: jnp.mean(
                POLICY.log_prob(self.agent.judge(params, observation_N)[0], action_N)
            )
        )

    def __call__(self, params: Any) -> dict[str, float]:
        """By name."""
        stored = self.teaching.stored
        rows = np.linspace(0, len(stored.action_N) - 1, SCORED).astype(int)
        likelihood = self._likelihood(params, stored.observation_N[rows], stored.action_N[rows])
        return {"likelihood": float(likelihood), "room_success": self.success(params)}

    def success(self, params: Any) -> float:
        """The share of tries from the doors of FAR."""
        starts = [door for door in self.teaching.doors for _ in range(self.arm.tries)]
        self.games.reset()
        for row, start in enumerate(starts):
            self.games.put(row, start)
        observation_B = self.games.frames_B.copy()
        running_B, solved_B = np.ones(len(starts), bool), np.zeros(len(starts), bool)
        for number in range(self.arm.tried_steps):
            key = jax.random.fold_in(jax.random.key(self.seed), number)
            stepped = self.games.step(np.asarray(self._act(params, observation_B, key)))
            observation_B = stepped.observation
            for row in np.flatnonzero(running_B):
                now = self.games.emulators[row].situation
                begun = starts[row].situation
                dead = stepped.terminated[row] or now.lives < begun.lives
                gained = now.points > begun.points or bool(now.items & ~begun.items)
                left = now.room not in (begun.room, starts[row].entered_from)
                solved_B[row] = not dead and (gained or left)
                back = now.room == starts[row].entered_from
                running_B[row] = not (dead or back or solved_B[row])
            if not running_B.any():
                break
        return float(solved_B.mean())


def tuned(arm: MontezumaArm, seed: int, teaching: Teaching, folder: Path) -> dict[str, Any]:
    """The numbers of a cell: `before`, `curves`, and the rooms of FAR."""
    scores, key = Scores(arm, teaching, seed + 30_000), jax.random.key(seed)
    agent = scores.agent
    held, beside = retention(agent, teaching, arm.method, arm.weight, seed)

    def games_of(seed: int) -> MontezumaEnvironments:
        return MontezumaEnvironments(
            arm.game, arm.choices.environments, seed=seed, far=teaching.far
        )

    begun = jax.jit(agent.start)(jax.random.fold_in(key, 2))
    if arm.begins == "copy":
        begun = agent.begun(teaching.params, key)
    begun = warmed(arm, agent, begun, games_of(seed + 40_000))
    if arm.critic_updates:
        begun = valued(arm, begun, seed, folder, games_of)
    before = scores(begun.params)
    learner = CuriousPPO(arm.choices, SHAPE, POLICY, held=held, beside=beside)
    loop = HostLoop(learner, games_of, arm.schedule)

    def at_measurement(state: CuriousState) -> dict[str, float]:
        return loop.environments.visits().shares() | scores(state.params)

    records = loop.records(
        folder,
        seed,
        ["montezuma", dataclasses.asdict(arm)],
        begun=begun,
        at_measurement=at_measurement,
    )
    label = f"{arm.begins}, {arm.method}, seed {seed}"
    return {
        "before": before,
        "curves": watched(records, label, SHOWN),
        "far": list(teaching.far),
        "stored": len(teaching.stored.action_N),
    }


def warmed(
    arm: MontezumaArm, agent: CuriousPPO, state: CuriousState, games: MontezumaEnvironments
) -> CuriousState:
    """With the frames that random actions meet in the mean and deviation of frames."""
    random, seen = np.random.default_rng(0), [games.reset()[..., -1:]]
    for number in range(1, arm.warmed + 1):
        actions_B = random.integers(ACTIONS, size=arm.choices.environments)
        seen.append(games.step(actions_B).observation[..., -1:])
        if number % arm.schedule.rollout == 0 or number == arm.warmed:
            state, seen = agent.seen(state, np.concatenate(seen)), []
    return state


def valued(
    arm: MontezumaArm, begun: CuriousState, seed: int, folder: Path, games_of: Any
) -> CuriousState:
    """After updates of the values' head and the predictor alone, with a new optimizer."""
    alone = dataclasses.replace(arm.choices, only_critic=True)
    agent = CuriousPPO(alone, SHAPE, POLICY)
    steps = arm.critic_updates * alone.environments * alone.rollout
    schedule = dataclasses.replace(arm.schedule, steps=steps, measured=1)
    loop = HostLoop(agent, games_of, schedule)
    identity = ["montezuma's values", dataclasses.asdict(arm)]
    list(loop.records(folder, seed + 50_000, identity, begun=begun))
    state: CuriousState = loop.state
    return state._replace(opt_state=agent.tx.init((state.params, state.curiosity.predictor)))


def measure_in(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Each cell's numbers. A copy is made once for all arms of a seed."""
    last: tuple[Any, Teaching] | None = None
    for cell in sorted(cells, key=lambda cell: cell.seed):
        where = cell.choices.teaching, cell.seed
        if last is None or last[0] != where:
            last = where, taught(cell.choices, cell.seed, folder)
        yield cell, tuned(cell.choices, cell.seed, last[1], folder)
