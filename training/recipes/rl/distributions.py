# SPDX-License-Identifier: Apache-2.0
"""A policy's distribution over actions, from the outputs of its network.

    kind = Categorical(actions=4)                 # or TanhNormal(low=(-1.0,), high=(1.0,))
    drawn_B = kind.sample(outputs_BO, key)        # what the agent keeps
    kind.log_prob(outputs_BO, drawn_B), kind.entropy(outputs_BO, key), kind.kl(old_BO, new_BO)
    kind.action(drawn_B)                          # what the environment takes

Of a tanh-normal, what is drawn is the normal variable before the tanh. So no tanh is inverted, and
in a ratio of two policies the tanh's derivative cancels. Legend: B batch, O outputs, A actions (or
dimensions of one).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from eval.dynamic.retention import categorical_kl, normal_kl

LEAST_SCALE = 1e-4
_SOFTPLUS_OF_1 = math.log(math.e - 1)  # an output of 0 is a scale of 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categorical:
    """One of so many actions."""

    actions: int

    @property
    def outputs(self) -> int:
        """Of the network."""
        return self.actions

    def sample(self, outputs_BA: jax.Array, key: jax.Array) -> jax.Array:
        """int32 [B]."""
        return jax.random.categorical(key, outputs_BA).astype(jnp.int32)

    def mode(self, outputs_BA: jax.Array) -> jax.Array:
        """The likeliest, int32 [B]."""
        return jnp.argmax(outputs_BA, -1).astype(jnp.int32)

    def log_prob(self, outputs_BA: jax.Array, drawn_B: jax.Array) -> jax.Array:
        """[B]."""
        log_p_BA = jax.nn.log_softmax(outputs_BA)
        return jnp.take_along_axis(log_p_BA, drawn_B[..., None], -1)[..., 0]

    def entropy(self, outputs_BA: jax.Array, key: jax.Array) -> jax.Array:
        """[B], exact."""
        log_p_BA = jax.nn.log_softmax(outputs_BA)
        return -jnp.sum(jnp.exp(log_p_BA) * log_p_BA, -1)

    def kl(self, old_BA: jax.Array, new_BA: jax.Array) -> jax.Array:
        """KL(old || new), [B], exact; old gets no gradient."""
        return categorical_kl(old_BA, new_BA)

    def parameters(self, outputs_BA: jax.Array) -> jax.Array:
        """What says how a policy depends on the state: the probabilities, [B, A]."""
        return jax.nn.softmax(outputs_BA)

    def action(self, drawn_B: Any) -> Any:
        """As it is."""
        return drawn_B


@dataclasses.dataclass(frozen=True, kw_only=True)
class TanhNormal:
    """tanh of a normal variable, stretched over [low, high] of each dimension; the network says
    location and scale of each."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def outputs(self) -> int:
        """Of the network."""
        return 2 * len(self.low)

    def split(self, outputs_BO: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Location and scale, [B, A] each."""
        loc_BA, raw_BA = jnp.split(outputs_BO, 2, -1)
        return loc_BA, jnp.maximum(jax.nn.softplus(raw_BA + _SOFTPLUS_OF_1), LEAST_SCALE)

    def sample(self, outputs_BO: jax.Array, key: jax.Array) -> jax.Array:
        """[B, A], before the tanh."""
        loc_BA, scale_BA = self.split(outputs_BO)
        return loc_BA + scale_BA * jax.random.normal(key, loc_BA.shape)

    def mode(self, outputs_BO: jax.Array) -> jax.Array:
        """The location, [B, A]."""
        return self.split(outputs_BO)[0]

    def log_prob(self, outputs_BO: jax.Array, drawn_BA: jax.Array) -> jax.Array:
        """[B], of tanh(drawn) within (-1, 1)."""
        loc_BA, scale_BA = self.split(outputs_BO)
        normal_BA = -0.5 * jnp.square((drawn_BA - loc_BA) / scale_BA) - jnp.log(scale_BA)
        # log(1 - tanh(u)^2), without its rounding to log(0)
        slope_BA = 2 * (math.log(2) - drawn_BA - jax.nn.softplus(-2 * drawn_BA))
        return jnp.sum(normal_BA - 0.5 * math.log(2 * math.pi) - slope_BA, -1)

    def entropy(self, outputs_BO: jax.Array, key: jax.Array) -> jax.Array:
        """[B], an estimate from one draw, which has the gradient of the entropy on average."""
        return -self.log_prob(outputs_BO, self.sample(outputs_BO, key))

    def kl(self, old_BO: jax.Array, new_BO: jax.Array) -> jax.Array:
        """KL(old || new), [B], exact: a tanh changes no KL. old gets no gradient."""
        return normal_kl(self.split(old_BO), self.split(new_BO))

    def parameters(self, outputs_BO: jax.Array) -> jax.Array:
        """Location and scale, [B, 2 A]."""
        return jnp.concatenate(self.split(outputs_BO), -1)

    def action(self, drawn_BA: Any) -> Any:
        """Within [low, high]."""
        low_A, high_A = jnp.asarray(self.low), jnp.asarray(self.high)
        share_BA = (jnp.tanh(drawn_BA) + 1) / 2
        return jnp.broadcast_to(low_A, share_BA.shape) + share_BA * jnp.broadcast_to(
            high_A - low_A, share_BA.shape
        )


Distribution = Categorical | TanhNormal
