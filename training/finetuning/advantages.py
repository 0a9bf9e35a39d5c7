# SPDX-License-Identifier: Apache-2.0
"""Generalised advantage estimation (Schulman et al., 2016).

    delta_t = r_t + discount V(s_t+1) - V(s_t)          V = 0 behind the end of an episode
    A_t     = delta_t + discount trace A_t+1            A = 0 there

An episode that was cut off (truncated) has a future: its last reward is given discount V of what
came next (`reward_TB` with `cut_off`), and it ends there like any other. Legend: T steps, B
environments.
"""

import jax
import jax.numpy as jnp


def advantages(
    reward_TB: jax.Array,
    value_TB: jax.Array,
    done_TB: jax.Array,
    last_value_B: jax.Array,
    *,
    discount: jax.Array | float,
    trace: jax.Array | float,
) -> jax.Array:
    """A, [T, B]. done: the episode ended with this step, for whatever reason. A + V are the targets
    of the values."""
    going_on_TB = 1 - done_TB.astype(jnp.float32)
    next_value_TB = jnp.concatenate([value_TB[1:], last_value_B[None]])
    delta_TB = reward_TB + discount * going_on_TB * next_value_TB - value_TB

    def back(later_B: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta_B, going_on_B = step
        now_B = delta_B + discount * trace * going_on_B * later_B
        return now_B, now_B

    start = jnp.zeros_like(last_value_B)
    return jax.lax.scan(back, start, (delta_TB, going_on_TB), reverse=True)[1]


def cut_off(
    reward_B: jax.Array,
    truncated_B: jax.Array,
    final_value_B: jax.Array,
    *,
    discount: jax.Array | float,
) -> jax.Array:
    """The reward of a step, with the value of what would have come where it was cut off."""
    return reward_B + discount * jnp.where(truncated_B, final_value_B, 0)
