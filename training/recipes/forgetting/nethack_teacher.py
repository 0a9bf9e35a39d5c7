# SPDX-License-Identifier: Apache-2.0
"""What a NetHack player is fine-tuned from: a copy of recorded games, and what holds PPO to it.

    stored = played(game, rows=64, length=32, seed=0)         # by nethack_bot.py
    stored = recorded("nld-aa", "ttyrecs.db", keys, rows=8000, length=32)   # NLD-AA, or the like
    params = cloned(agent, start, stored, updates=500, rows=16, seed=0)
    held, beside = retention(agent, params, stored, "ks", Weight(start=0.5, decay=0.99998))

The paper's teacher has learned from AutoAscend's games, 115 billion steps of them. Those recordings
are 12 GB or more and not here: with none a copy is of our own bot, and is called so.

Rows are windows of games, and a memory begins each of them with nothing, of learner and teacher
alike. BC holds the learner on stored rows, KS on its own, where the teacher has stepped beside it
with a memory of its own; EWC by the Fisher information of the last step of stored rows. The value
has no part in any.

Legend: S stored rows, T steps of one, R of a minibatch, A actions.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.dynamic.retention import Weight, categorical_fisher, categorical_kl, distance
from recurrentgemma.errors import UserError
from training.recipes.forgetting.copies import fitted
from training.recipes.forgetting.nethack import EXTRA, Game, NetHackGames, Seen
from training.recipes.forgetting.nethack_bot import Descender
from training.recipes.rl.recurrent_host import HeldRows, RecurrentHost, Row, drawn_rows

Method = Literal["none", "bc", "ks", "ewc"]
FISHER_ROWS = 128
SIDE_BY_SIDE = 8  # games of the bot


class GameRows(NamedTuple):
    """[S, T, ...]. first: a game begins with this step. far: it is in FAR; recordings do not say,
    and have the line at the bottom read."""

    observation: Seen
    first: Any
    action: Any
    far: Any


def played(game: Game, *, rows: int, length: int, seed: int, make: Any = NetHackGames) -> GameRows:
    """Windows of games that the bot plays, one after another."""
    count = min(SIDE_BY_SIDE, rows)
    steps = []
    with make(game, count, seed=seed) as games:
        seen_B, first_B = games.reset(), np.ones(count, bool)
        bots = [Descender(games.keys) for _ in range(count)]
        for _ in range(-(-rows // count) * length):
            action_B = np.array([bot.act(now) for bot, now in zip(bots, games.now, strict=True)])
            far_B = np.array([games.depth(row) >= game.far_depth for row in range(count)])
            steps.append((seen_B, first_B, action_B.astype(np.int32), far_B))
            stepped = games.step(action_B)
            seen_B, first_B = stepped.observation, stepped.terminated | stepped.truncated
            for row in np.flatnonzero(first_B):
                bots[row] = Descender(games.keys)
    columns = jax.tree.map(lambda *x: np.stack(x, 1), *steps)  # [B, all steps, ...]
    cut = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[2:])[:rows], GameRows(*columns))
    return cut


def recorded(
    name: str, database: Path | str, keys: Sequence[int], *, rows: int, length: int, far_depth: int
) -> GameRows:
    """Windows of a data set of terminal recordings, as `nle.dataset` has registered it in a
    database. Keys that are no action of the game are left out with their windows.

    Raises UserError: nle is not installed; there is no such file, or no window of such keys.
    """
    try:
        dataset: Any = importlib.import_module("nle.dataset")
    except ImportError as error:
        raise UserError(f"NetHack is not installed ({error}): {EXTRA}") from None
    if not Path(database).is_file():
        raise UserError(
            f"{database}: no such database; nle.dataset.db.create and add_nledata_directory make "
            "one of a folder of recordings"
        )
    batches = dataset.TtyrecDataset(
        name, batch_size=1, seq_length=length, dbfilename=str(database), shuffle=False
    )
    # As many games side by side as there are: it wants one for each.
    batches.batch_size = max(1, min(rows, SIDE_BY_SIDE, len(batches._gameids)))
    action_of, windows = {key: number for number, key in enumerate(keys)}, []
    for batch in batches:
        pressed = batch["keypresses"]
        known = np.isin(pressed, list(action_of)).all(1)
        action = np.vectorize(lambda key: action_of.get(int(key), 0))(pressed).astype(np.int32)
        before = np.concatenate([np.zeros_like(action[:, :1]), action[:, :-1]], 1)
        seen = Seen(
            batch["tty_chars"].astype(np.uint8),
            batch["tty_colors"].astype(np.uint8) & 15,
            batch["tty_cursor"].astype(np.int32),
            before,
        )
        first = batch["done"].astype(bool)
        far = depths(seen.chars) >= far_depth
        windows.append(
            jax.tree.map(lambda x, known=known: x[known], GameRows(seen, first, action, far))
        )
        if sum(len(one.action) for one in windows) >= rows:
            break
    if not windows or not any(len(one.action) for one in windows):
        raise UserError(f"{name} in {database} has no window of {length} steps with known keys")
    return jax.tree.map(lambda *x: np.concatenate(x)[:rows].copy(), *windows)


def depths(chars_STHW: np.ndarray) -> np.ndarray:
    """The level that the line at the bottom names, `Dlvl:`, 0 where there is none: [S, T]."""
    mark = np.frombuffer(b"Dlvl:", np.uint8)
    line = chars_STHW[..., -1, : len(mark) + 2]
    digits = np.where((line >= 48) & (line < 58), line.astype(np.int64) - 48, -1)
    one, two = digits[..., len(mark)], digits[..., len(mark) + 1]
    level = np.where(two >= 0, 10 * one + two, one)
    return np.where((line[..., : len(mark)] == mark).all(-1), np.maximum(level, 0), 0)


def logits(agent: RecurrentHost, params: Any, rows: GameRows) -> jax.Array:
    """[R, T, A], each row from a new memory."""
    return agent.judge(params, rows.observation, agent.memory(len(rows.action)), rows.first)[0]


def cloned(
    agent: RecurrentHost, start: Any, stored: GameRows, *, updates: int, rows: int, seed: int
) -> Any:
    """Parameters after so many updates on these rows, by the cross-entropy."""

    def loss(params: Any, batch: GameRows) -> jax.Array:
        log_prob_RT = agent.policy.log_prob(logits(agent, params, batch), batch.action)
        return -jnp.mean(log_prob_RT)

    return fitted(loss, start, stored, updates=updates, rows=rows, seed=seed)


def retention(
    agent: RecurrentHost,
    teacher: Any,
    stored: GameRows,
    method: Method,
    weight: Weight,
    *,
    rows: int,
    seed: int,
) -> tuple[HeldRows | None, Callable[[int], Any] | None]:
    """`held` and `beside` of a RecurrentHost. Of KS the agent has the teacher, too."""
    if method == "none":
        return None, None
    if method == "ks":

        def ks(params: Any, outputs_RTA: Any, row: Row, beside: Any, number: Any) -> jax.Array:
            del params, beside
            kl_RT = categorical_kl(row.kept.teacher, outputs_RTA)
            return weight.at(number) * jnp.mean(kl_RT)

        return ks, None
    if method == "bc":
        drawn = drawn_rows(stored, min(rows, len(stored.action)), seed)

        def bc(params: Any, outputs_RTA: Any, row: Row, beside: Any, number: Any) -> jax.Array:
            del outputs_RTA, row
            frozen, batch = beside
            kl_RT = categorical_kl(logits(agent, frozen, batch), logits(agent, params, batch))
            return weight.at(number) * jnp.mean(kl_RT)

        return bc, lambda number: (teacher, drawn(number))
    fisher = fisher_of(agent, teacher, stored, seed)

    def ewc(params: Any, outputs_RTA: Any, row: Row, beside: Any, number: Any) -> jax.Array:
        del outputs_RTA, row
        return weight.at(number) * distance(params, *beside)

    return ewc, lambda number: (teacher, fisher)


def fisher_of(agent: RecurrentHost, params: Any, stored: GameRows, seed: int) -> Any:
    """Of the policy at the last step of some rows, one action drawn of it at each."""
    chosen = drawn_rows(stored, min(FISHER_ROWS, len(stored.action)), seed)(0)

    def last(params: Any, one: GameRows) -> jax.Array:
        return logits(agent, params, jax.tree.map(lambda x: x[None], one))[0, -1]

    return jax.jit(categorical_fisher, static_argnums=0)(
        last, params, jax.tree.map(jnp.asarray, chosen), key=jax.random.key(seed)
    )
