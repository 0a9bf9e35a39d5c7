# SPDX-License-Identifier: Apache-2.0
"""A T-maze (Bakker, 2001): a cue at the beginning of a corridor says which way to turn at its end.

    actions        0 goes on, 1 turns left, 2 turns right
    observation    [cue, in the corridor, at the junction]; the cue is -1 (left) or 1 (right) in the
                   first step, and 0 after it
    reward         1 for the right turn at the junction, -1 for the wrong one; in the corridor
                   -1/length for turning, and at the junction for going on
    end            with a turn at the junction, or after 2 (length + 1) steps

Without memory the best return is 0 on average. length: steps from the cue to the junction.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recurrentgemma.errors import UserError
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.environments import Stepped

FORWARD = 0
ACTIONS = Categorical(actions=3)


class MazeState(NamedTuple):
    """cue: -1 or 1. place: steps into the corridor. time: steps of the episode. int32."""

    cue: jax.Array
    place: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class TMaze:
    """See the module. Raises UserError: a length below 1."""

    length: int
    observation_shape: tuple[int, int, int] = (1, 1, 3)
    policy: Categorical = ACTIONS

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"length={self.length}: expected a corridor of at least 1 step")

    def reset(self, key: jax.Array) -> tuple[jax.Array, MazeState]:
        """At the cue."""
        cue = 2 * jax.random.bernoulli(key).astype(jnp.int32) - 1
        state = MazeState(cue, jnp.int32(0), jnp.int32(0))
        return self._seen(state), state

    def step(
        self, key: jax.Array, state: MazeState, action: jax.Array
    ) -> tuple[MazeState, Stepped]:
        """A step, and a new maze where this one has ended."""
        junction, turns = state.place == self.length, action != FORWARD
        right = jnp.where(action == 2, 1, -1) == state.cue
        wasted = jnp.float32(-1 / self.length)
        reward = jnp.where(
            junction & turns,
            jnp.where(right, 1.0, -1.0),
            jnp.where(junction | turns, wasted, 0.0),
        )
        place = jnp.minimum(state.place + (~turns).astype(jnp.int32), self.length)
        after = MazeState(state.cue, place, state.time + 1)
        terminated = junction & turns
        truncated = ~terminated & (after.time >= 2 * (self.length + 1))
        first, fresh = self.reset(key)
        done = terminated | truncated
        kept = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, after)
        final = self._seen(after)
        observation = jnp.where(done, first, final)
        return kept, Stepped(observation, reward.astype(jnp.float32), terminated, truncated, final)

    def _seen(self, state: MazeState) -> jax.Array:
        cue = jnp.where(state.time == 0, state.cue, 0)
        junction = (state.place == self.length).astype(jnp.float32)
        return jnp.stack([cue.astype(jnp.float32), 1 - junction, junction])[None, None]
