# SPDX-License-Identifier: Apache-2.0
"""Environments as pure functions, which run inside of a compiled program: gymnax's, or your own.

    environment = gymnax_environment("Breakout-MinAtar")
    observation, state = environment.reset(key)
    state, stepped = environment.step(key, state, action)     # starts anew where an episode ends

Anything with these three attributes is one (recipes/memory has a T-maze). Observations are images
[H, W, C], vectors (1, 1, D). Many at once: vmap.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from recurrentgemma.errors import UserError, did_you_mean
from training.recipes.rl.distributions import Categorical, Distribution, TanhNormal

EXTRA = "pip install 'griffin-lm[rl]'"


class Stepped(NamedTuple):
    """What a step gives. observation: what the agent sees next, of a new episode where this one has
    ended; final_observation: where the step itself has led. reward: float32. terminated,
    truncated: the episode has ended, or was cut off by its limit of time. Arrays of JAX, or of
    NumPy from outside of the program."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    final_observation: Any


class Environment(Protocol):
    """See the module."""

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """[H, W, C]."""
        ...

    @property
    def policy(self) -> Distribution:
        """Over the actions."""
        ...

    def reset(self, key: jax.Array) -> tuple[jax.Array, Any]:
        """Observation and state of a new episode."""
        ...

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Stepped]:
        """The state after it, and what it gives."""
        ...


@dataclasses.dataclass(frozen=True)
class GymnaxEnvironment:
    """One of gymnax. params: its own."""

    inner: Any
    params: Any
    observation_shape: tuple[int, int, int]
    policy: Distribution

    def reset(self, key: jax.Array) -> tuple[jax.Array, Any]:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            observation, state = self.inner.reset(key, self.params)
        # Of the types that `step` gives, weak ones neither: a program of both is compiled once.
        state = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)
        return self._image(observation), state

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Stepped]:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            observation, after, reward, terminated, truncated, info = self.inner.step(
                key, state, action, self.params
            )
        # A state keeps its types from step to step, as a scan wants it.
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        return after, Stepped(
            self._image(observation),
            jnp.asarray(reward, jnp.float32),
            jnp.asarray(terminated, bool),
            jnp.asarray(truncated, bool),
            self._image(info["final_observation"]),
        )

    def _image(self, observation: jax.Array) -> jax.Array:
        return jnp.asarray(observation, jnp.float32).reshape(self.observation_shape)


def gymnax_environment(name: str, **params: Any) -> GymnaxEnvironment:
    """An environment of gymnax by its name; params: of the environment, by their names.

    Raises UserError: gymnax is not installed; it has no environment or parameter of that name; the
    environment's actions are of a kind that no agent here has.
    """
    try:
        import gymnax
        from gymnax.registration import registered_envs
    except ImportError as error:
        raise UserError(f"{name}: gymnax is not installed ({error}): {EXTRA}") from None
    if name not in registered_envs:
        raise UserError(
            f"{name!r} is no environment of gymnax{did_you_mean(name, registered_envs)}: they are "
            f"{', '.join(registered_envs)}"
        )
    inner, defaults = gymnax.make(name)
    known = [field.name for field in dataclasses.fields(defaults)]
    for parameter in params:
        if parameter not in known:
            raise UserError(
                f"{name} has no parameter {parameter!r}{did_you_mean(parameter, known)}: it has "
                f"{', '.join(known)}"
            )
    own = defaults.replace(**params)
    shape = image_shape(inner.observation_space(own).shape)
    return GymnaxEnvironment(inner, own, shape, policy_of(inner.action_space(own), name))


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of an observation: a matrix has one channel, all else lies in the channels."""
    if len(shape) == 3:
        return (shape[0], shape[1], shape[2])
    if len(shape) == 2:
        return (shape[0], shape[1], 1)
    size = 1
    for extent in shape:
        size *= extent
    return (1, 1, size)


def policy_of(space: Any, name: str) -> Distribution:
    """The distribution over a space of actions, gymnasium's or gymnax's.

    Raises UserError: it is neither discrete nor a bounded box of one axis.
    """
    kind = type(space).__name__
    if kind == "Discrete":
        return Categorical(actions=int(space.n))
    if kind == "Box" and len(space.shape) == 1:
        bounds = [
            tuple(float(x) for x in jnp.broadcast_to(jnp.asarray(bound, jnp.float32), space.shape))
            for bound in (space.low, space.high)
        ]
        if all(abs(x) < 1e6 for bound in bounds for x in bound):
            return TanhNormal(low=bounds[0], high=bounds[1])
    raise UserError(
        f"{name} has actions of {space}: expected Discrete, or a Box of one axis with finite bounds"
    )


class Episodes(NamedTuple):
    """Of environments side by side: the return so far of each running episode, and what the
    finished ones had."""

    running_B: jax.Array  # return of the running episode
    length_B: jax.Array  # int32, its steps
    returns: jax.Array  # sum over finished episodes
    lengths: jax.Array
    finished: jax.Array  # int32, how many
    positive: jax.Array  # int32, how many of them had a return above 0


def no_episodes(environments: int) -> Episodes:
    """Newly begun."""
    nothing, none = jnp.zeros(environments), jnp.zeros(environments, jnp.int32)
    zero = jnp.zeros((), jnp.int32)
    return Episodes(nothing, none, jnp.zeros(()), zero, zero, zero)


def counted(episodes: Episodes, reward_B: jax.Array, done_B: jax.Array) -> Episodes:
    """With a step of each."""
    running_B, length_B = episodes.running_B + reward_B, episodes.length_B + 1
    return Episodes(
        jnp.where(done_B, 0, running_B),
        jnp.where(done_B, 0, length_B),
        episodes.returns + jnp.sum(jnp.where(done_B, running_B, 0)),
        episodes.lengths + jnp.sum(jnp.where(done_B, length_B, 0), dtype=jnp.int32),
        episodes.finished + jnp.sum(done_B, dtype=jnp.int32),
        episodes.positive + jnp.sum(done_B & (running_B > 0), dtype=jnp.int32),
    )


def emptied(episodes: Episodes) -> tuple[Episodes, dict[str, jax.Array]]:
    """With nothing finished; and the mean return and length of what was, and the share with a
    return above 0 (`solved`), NaN where nothing was."""
    count = episodes.finished.astype(jnp.float32)
    sums = {
        "return": episodes.returns,
        "length": episodes.lengths.astype(jnp.float32),
        "solved": episodes.positive.astype(jnp.float32),
    }
    means = {
        name: jnp.where(count > 0, value / jnp.maximum(count, 1), jnp.nan)
        for name, value in sums.items()
    }
    means["episodes"] = count
    zero = jnp.zeros((), jnp.int32)
    anew = episodes._replace(returns=jnp.zeros(()), lengths=zero, finished=zero, positive=zero)
    return anew, means
