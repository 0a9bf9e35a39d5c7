# SPDX-License-Identifier: Apache-2.0
"""gymnax's environments behind one interface, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.rl.distributions import Categorical, TanhNormal
from training.recipes.rl.environments import (
    counted,
    emptied,
    gymnax_environment,
    image_shape,
    no_episodes,
    policy_of,
)


def test_an_episode_ends_at_its_limit_and_the_next_one_begins():
    environment = gymnax_environment("CartPole-v1", max_steps_in_episode=3)
    observation, state = environment.reset(jax.random.key(0))
    assert observation.shape == environment.observation_shape == (1, 1, 4)
    assert environment.policy == Categorical(actions=2)
    step = jax.jit(environment.step)
    seen = []
    for number in range(4):
        state, stepped = step(jax.random.key(number), state, jnp.int32(number % 2))
        seen.append(stepped)
    assert [bool(one.truncated) for one in seen] == [False, False, True, False]
    assert not any(bool(one.terminated) for one in seen)
    assert bool(jnp.any(seen[2].observation != seen[2].final_observation))
    np.testing.assert_array_equal(seen[1].observation, seen[1].final_observation)


@pytest.mark.parametrize("name", ["CartPole-v1", "Breakout-MinAtar"])
def test_a_state_has_the_types_of_the_one_after_it(name: str):
    environment = gymnax_environment(name)
    _, first = jax.jit(environment.reset)(jax.random.key(0))
    step = jax.jit(environment.step)
    after, _ = step(jax.random.key(1), first, jnp.int32(0))
    step(jax.random.key(1), after, jnp.int32(0))
    assert list(map(jax.typeof, jax.tree.leaves(after))) == list(
        map(jax.typeof, jax.tree.leaves(first))
    )
    assert step._cache_size() == 1  # type: ignore[attr-defined]


def test_returns_are_counted_over_finished_episodes():
    episodes = no_episodes(2)
    for done in ([False, True], [False, False], [True, True]):
        episodes = counted(episodes, jnp.ones(2), jnp.array(done))
    episodes, means = emptied(episodes)
    assert {name: float(value) for name, value in means.items()} == {
        "return": 2.0,
        "length": 2.0,
        "episodes": 3.0,
        "solved": 1.0,
    }
    assert np.isnan(emptied(episodes)[1]["return"])


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("Breakout-Minatar", {}, r"did you mean 'Breakout-MinAtar'\?"),
        ("CartPole-v1", {"max_steps": 3}, r"did you mean 'max_steps_in_episode'\?"),
    ],
)
def test_what_gymnax_does_not_have(name, params, message):
    with pytest.raises(UserError, match=message):
        gymnax_environment(name, **params)


def test_actions_that_no_agent_has():
    spaces = pytest.importorskip("gymnasium.spaces", reason="gymnasium is not installed here")
    assert policy_of(spaces.Box(-1, 2, (2,)), "it") == TanhNormal(low=(-1, -1), high=(2, 2))
    for space in (spaces.MultiDiscrete([2, 3]), spaces.Box(-np.inf, np.inf, (2,))):
        with pytest.raises(UserError, match="expected Discrete, or a Box of one axis"):
            policy_of(space, "it")


def test_shapes_of_observations():
    assert image_shape((5,)) == (1, 1, 5)
    assert image_shape((5, 6)) == (5, 6, 1)
    assert image_shape(()) == (1, 1, 1)
