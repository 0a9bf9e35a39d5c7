# SPDX-License-Identifier: Apache-2.0
"""Stored games, a copy of them, and each method's term: nothing for the copy itself, and more for
another policy; in a dungeon without NetHack. And recordings of NetHack, where it is installed."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.dynamic.retention import Weight
from recurrentgemma.errors import UserError
from tests.training.recipes.forgetting.dungeon_without_nethack import KEYS, games
from training.recipes.forgetting.nethack import Game, Seen, nethack_game
from training.recipes.forgetting.nethack_network import HackAgent, HackNetwork
from training.recipes.forgetting.nethack_teacher import (
    cloned,
    depths,
    logits,
    played,
    recorded,
    retention,
)
from training.recipes.rl.cores import CoreConfig
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.recurrent_host import Kept, MemoryChoices, RecurrentHost, Row

TINY = HackNetwork(
    core=CoreConfig(kind="lstm", width=16, blocks=1),
    embedded=2,
    channels=(2, 2),
    residual=0,
    crop=5,
    units=8,
)
AGENT = RecurrentHost(
    MemoryChoices(environments=4, rows=4),
    lambda rngs: HackAgent(TINY, len(KEYS), rngs=rngs),
    Categorical(actions=len(KEYS)),
)


@pytest.fixture(scope="module")
def stored():
    return played(Game(), rows=12, length=8, seed=0, make=games)


@pytest.fixture(scope="module")
def new():
    return nnx.split(HackAgent(TINY, len(KEYS), rngs=nnx.Rngs(0)))[1]


def test_stored_games_say_where_they_begin_and_are(stored):
    assert stored.observation.chars.shape == (12, 8, 24, 80)
    assert stored.first[0, 0]
    assert not stored.first[1, 0]
    np.testing.assert_array_equal(stored.observation.action[0, 1:], stored.action[0, :-1])
    np.testing.assert_array_equal(stored.far, depths(stored.observation.chars) >= 2)
    assert 0 < stored.far.mean() < 1


def test_a_copy_and_what_holds_to_it(stored, new):
    copy = cloned(AGENT, new, stored, updates=60, rows=6, seed=0)
    judge = jax.jit(lambda params: logits(AGENT, params, stored))
    before, after = (
        float(AGENT.policy.log_prob(judge(params), jnp.asarray(stored.action)).mean())
        for params in (new, copy)
    )
    assert after > before + 0.3
    outputs = {"new": judge(new), "copy": judge(copy)}
    row = Row(
        stored.observation,
        jnp.asarray(stored.first),
        jnp.asarray(stored.action),
        Kept((), (), outputs["copy"]),
        *(jnp.zeros(()), jnp.zeros(()), ()),
    )
    for method in ("ks", "bc", "ewc"):
        held, beside = retention(
            AGENT, copy, stored, method, Weight(start=2.0, decay=0.5), rows=4, seed=0
        )
        assert held is not None
        given = None if beside is None else beside(0)
        assert beside is None or method != "ks"
        of_copy, of_new, later = (
            float(held(params, outputs[name], row, given, jnp.int32(number)))
            for name, params, number in (("copy", copy, 0), ("new", new, 0), ("new", new, 1))
        )
        assert of_copy == pytest.approx(0, abs=1e-5)
        assert of_new > 1e-3
        assert later == pytest.approx(of_new / 2, rel=1e-4)
    assert retention(AGENT, copy, stored, "none", Weight(start=0.0), rows=4, seed=0) == (None, None)


def test_the_line_at_the_bottom():
    chars = np.full((3, 1, 24, 80), 32, np.uint8)
    for row, text in enumerate((b"Dlvl:7 $:0", b"Dlvl:12 $", b"       ")):
        chars[row, 0, 23, : len(text)] = np.frombuffer(text, np.uint8)
    np.testing.assert_array_equal(depths(chars)[:, 0], [7, 12, 0])


def test_recordings_of_nethack_are_read(tmp_path):
    nld: Any = pytest.importorskip(
        "nle.dataset", reason="nle is not installed here: griffin-lm[nethack]"
    )
    tasks: Any = importlib.import_module("nle.env.tasks")
    keys = nethack_game(Game())[1]
    inner = tasks.NetHackScore(savedir=str(tmp_path / "nld" / "me"), save_ttyrec_every=1)
    inner.reset()
    walk = np.random.default_rng(0).integers(1, 9, 200)
    for action in walk:
        if inner.step(int(action))[2]:
            break
    inner._quit_game(inner.last_observation, False)  # a game is listed when it is over
    inner.close()
    database = tmp_path / "ttyrecs.db"
    nld.db.create(str(database))
    nld.add_nledata_directory(str(tmp_path / "nld"), "walk", str(database))
    rows = recorded("walk", database, keys, rows=2, length=16, far_depth=2)
    assert isinstance(rows.observation, Seen)
    assert rows.action.shape == (2, 16)
    assert not rows.far.any()
    assert b"Dlvl:1" in bytes(rows.observation.chars[0, 5, 23])
    # a window with a key that is no action, such as NLE's own spaces, is left out
    windows = [walk[at : at + 16].tolist() for at in range(len(walk) - 15)]
    assert rows.action[0].tolist() in windows
    with pytest.raises(UserError, match="no such database"):
        recorded("walk", tmp_path / "none.db", keys, rows=2, length=16, far_depth=2)
