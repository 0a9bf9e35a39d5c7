# SPDX-License-Identifier: Apache-2.0
"""A run of a NetHack player: a copy is made, its value is fitted, and PPO goes on from there with
or without what holds it.

Measured, evenly: `return` (of clipped rewards), `score` and `depth` of the games of training,
`far`, their steps' share below the first level; the losses; on stored games the log-likelihood of
their actions in FAR (`far_likelihood`) and in CLOSE (`close_likelihood`); `far_gain`, what the
score grows in a few steps of games that begin deep in the dungeon, where the bot has led them.
`before` has the last three of the policy that the run begins with.

Legend: S stored rows, T steps, B games.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eval.dynamic.retention import Weight
from training.recipes.experiment import Cell
from training.recipes.forgetting.nethack import Game, NetHackGames, Opening
from training.recipes.forgetting.nethack_bot import Descender
from training.recipes.forgetting.nethack_network import HackAgent, HackNetwork
from training.recipes.forgetting.nethack_teacher import (
    GameRows,
    Method,
    cloned,
    logits,
    played,
    recorded,
    retention,
)
from training.recipes.forgetting.short_runs import watched
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.host_loop import HostLoop, Schedule
from training.recipes.rl.recurrent_host import MemoryChoices, RecurrentHost

NO_WEIGHT = Weight(start=0.0)
ALL_BUT_THE_VALUE = ("encoder", "core", "actor")
SCORED = 64  # stored rows that likelihoods are of
SHOWN = ("return", "score", "depth", "held_loss", "far_likelihood", "far_gain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HackRun:
    """begins: with a new policy, or with the copy. stored: rows of recorded games, each as long as
    a rollout. copied, copied_rows: updates of the copy, and rows of one. critic_steps: in which the
    value alone is trained. openings: games that begin deep, at `opening_depth`, of which
    `opening_steps` are played at a measurement. recordings: name and database of a data set in
    place of the bot's games."""

    network: HackNetwork
    begins: Literal["scratch", "copy"] = "copy"
    method: Method = "none"
    weight: Weight = NO_WEIGHT
    game: Game = dataclasses.field(default_factory=Game)
    choices: MemoryChoices = dataclasses.field(default_factory=MemoryChoices)
    schedule: Schedule
    stored: int = 256
    copied: int = 300
    copied_rows: int = 16
    critic_steps: int = 0
    openings: int = 8
    opening_depth: int = 4
    opening_steps: int = 100
    recordings: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        self.schedule.check(self.choices.environments, self.choices.rollout)

    @property
    def teaching(self) -> "HackRun":
        """What the arms of one copy have in common."""
        rollout = self.choices.rollout
        return dataclasses.replace(
            self, begins="copy", method="none", weight=NO_WEIGHT, critic_steps=0,
            choices=MemoryChoices(rollout=rollout),
            schedule=Schedule(environments=128, rollout=rollout, steps=1),
        )  # fmt: skip


class Teaching(NamedTuple):
    """Stored games, the copy, a new policy, and games that begin deep."""

    stored: GameRows
    params: Any
    new: Any
    openings: Sequence[Opening]


def agent_of(arm: HackRun, actions: int, **held: Any) -> RecurrentHost:
    """An agent of an arm."""

    def make_agent(rngs: nnx.Rngs) -> HackAgent:
        return HackAgent(arm.network, actions, rngs=rngs)

    return RecurrentHost(arm.choices, make_agent, Categorical(actions=actions), **held)


def taught(arm: HackRun, seed: int, make: Any = NetHackGames) -> Teaching:
    """The copy of a seed."""
    length = arm.choices.rollout
    with make(arm.game, 1, seed=seed) as games:
        keys, actions = games.keys, games.policy.actions
    if arm.recordings is None:
        stored = played(arm.game, rows=arm.stored, length=length, seed=seed + 10_000, make=make)
    else:
        name, database = arm.recordings
        stored = recorded(
            *(name, database, keys),
            rows=arm.stored,
            length=length,
            far_depth=arm.game.far_depth,
        )
    agent, key = agent_of(arm, actions), jax.random.key(seed)
    new = jax.jit(agent.start)  # a drawn agent takes seconds to compile
    params = cloned(
        *(agent, new(key).params, stored),
        updates=arm.copied,
        rows=min(arm.copied_rows, len(stored.action)),
        seed=seed,
    )
    other = new(jax.random.fold_in(key, 2)).params
    return Teaching(stored, params, other, deep_openings(arm, seed + 20_000, make))


def deep_openings(arm: HackRun, seed: int, make: Any = NetHackGames) -> list[Opening]:
    """Games that the bot has led to a depth, alive; of other seeds than where it dies before."""
    met: list[Opening] = []
    with make(arm.game, 1, seed=seed) as games:
        while len(met) < arm.openings:
            games.openings = [Opening(seed, ())]
            games.reset()
            bot, actions, ended = Descender(games.keys), [], False
            while not ended and games.depth(0) < arm.opening_depth:
                actions.append(bot.act(games.now[0]))
                stepped = games.step(np.array(actions[-1:]))
                ended = bool(stepped.terminated[0] or stepped.truncated[0])
            if not ended:
                met.append(Opening(seed, tuple(actions)))
            seed += 1
    return met


class Scores:
    """What is measured of parameters beside their training."""

    def __init__(self, arm: HackRun, teaching: Teaching, seed: int, make: Any):
        self.arm, self.teaching, self.seed = arm, teaching, seed
        self.games = make(arm.game, arm.openings, seed=seed, openings=teaching.openings)
        self.agent = agent_of(arm, self.games.policy.actions)
        self._of_stored = jax.jit(self._likelihoods)

    def __call__(self, params: Any) -> dict[str, float]:
        """By name."""
        rows = np.linspace(0, len(self.teaching.stored.action) - 1, SCORED).astype(int)
        some = jax.tree.map(lambda x: x[rows], self.teaching.stored)
        of_stored = jax.device_get(self._of_stored(params, some))
        return {
            **{name: float(value) for name, value in of_stored.items()},
            "far_gain": self.gain(params),
        }

    def gain(self, params: Any) -> float:
        """The mean growth of the score in the games that begin deep; one that ends before counts
        with what it had earned. A memory begins with nothing there."""
        seen_B, count = self.games.reset(), self.arm.openings
        first_B, running_B, gained_B = np.ones(count, bool), np.ones(count, bool), np.zeros(count)
        begun_B = np.array([self.games.score(row) for row in range(count)])
        state, memory = self.agent.begun(params), self.agent.remembered(count)
        for number in range(self.arm.opening_steps):
            key = jax.random.fold_in(jax.random.key(self.seed), number)
            drawn_B, _, memory = self.agent.act(state, memory, seen_B, first_B, key)
            stepped = self.games.step(np.asarray(drawn_B))
            seen_B, first_B = stepped.observation, stepped.terminated | stepped.truncated
            running_B &= ~first_B
            now_B = np.array([self.games.score(row) for row in range(count)])
            gained_B = np.where(running_B, now_B - begun_B, gained_B)
        return float(gained_B.mean())

    def _likelihoods(self, params: Any, rows: GameRows) -> dict[str, jax.Array]:
        logits_STA = logits(self.agent, params, rows)
        log_prob_ST = self.agent.policy.log_prob(logits_STA, rows.action)
        return {
            "far_likelihood": jnp.mean(log_prob_ST, where=rows.far),
            "close_likelihood": jnp.mean(log_prob_ST, where=~rows.far),
        }


def tuned(
    arm: HackRun, seed: int, teaching: Teaching, folder: Path, make: Any = NetHackGames
) -> dict[str, Any]:
    """The numbers of a cell: `before`, and `curves`."""
    scores = Scores(arm, teaching, seed + 30_000, make)
    agent = scores.agent
    identity = ["nethack", dataclasses.asdict(arm)]

    def games_of(seed: int) -> NetHackGames:
        return make(arm.game, arm.choices.environments, seed=seed)

    with scores.games:
        begun = agent.begun(teaching.new if arm.begins == "scratch" else teaching.params)
        if arm.critic_steps:
            begun = valued(arm, agent, begun, seed, folder, games_of)
        teacher = {"teacher": teaching.params} if arm.method == "ks" else {}
        held, beside = retention(
            *(agent, teaching.params, teaching.stored, arm.method, arm.weight),
            rows=arm.choices.rows,
            seed=seed,
        )
        learner = agent_of(arm, agent.policy.outputs, held=held, beside=beside, **teacher)
        loop = HostLoop(learner, games_of, arm.schedule)

        def at_measurement(state: Any) -> dict[str, float]:
            return loop.environments.visits().shares() | scores(state.params)

        before = scores(begun.params)
        label = f"{arm.network.core.kind}, {arm.begins}, {arm.method}, seed {seed}"
        records = loop.records(folder, seed, identity, begun=begun, at_measurement=at_measurement)
        return {"before": before, "curves": watched(records, label, SHOWN)}


def valued(
    arm: HackRun, agent: RecurrentHost, begun: Any, seed: int, folder: Path, games_of: Any
) -> Any:
    """The state after steps in which the value's head alone is trained, and a new optimizer's."""
    alone = dataclasses.replace(arm.choices, frozen=ALL_BUT_THE_VALUE)
    learner = agent_of(dataclasses.replace(arm, choices=alone), agent.policy.outputs)
    schedule = dataclasses.replace(arm.schedule, steps=arm.critic_steps, measured=1)
    loop = HostLoop(learner, games_of, schedule)
    identity = ["nethack's value", dataclasses.asdict(arm)]
    list(loop.records(folder, seed + 40_000, identity, begun=begun))
    return agent.begun(loop.state.params)._replace(returns=loop.state.returns)


def measure_in(
    cells: Sequence[Cell], folder: Path, *, make: Any = NetHackGames
) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Each cell's numbers. A copy is made once for all arms of a network and a seed."""
    last: tuple[Any, Teaching] | None = None
    for cell in sorted(cells, key=lambda cell: (cell.seed, repr(cell.choices.teaching))):
        where = cell.choices.teaching, cell.seed
        if last is None or last[0] != where:
            last = where, taught(cell.choices, cell.seed, make)
        yield cell, tuned(cell.choices, cell.seed, last[1], folder, make)
