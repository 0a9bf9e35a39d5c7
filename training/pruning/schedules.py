# SPDX-License-Identifier: Apache-2.0
"""When a pruning penalty acts: DemP's one-cycle (arXiv 2403.07688), and what it is compared to.

A schedule goes from a step to a factor in [0, 1] of the highest penalty, and of the noise.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from training.pruning.config import PenaltySchedule

RISE = 0.3  # of the span
FIRST, LAST = 1 / 25, 1 / (25 * 1e4)  # where a one-cycle begins and ends


def penalty_schedule(kind: PenaltySchedule, span: int) -> optax.Schedule:
    """The factor of each step.

    one_cycle: a cosine from 1/25 to 1 over the first 30% of `span` steps, and from there one to
    1/250,000 at its end, where it stays. warm_up: linear from 0 to 1 over the same 30%, then 1.
    constant: 1.
    """
    rise = max(1, int(RISE * span))
    if kind == "constant":
        unconverted = optax.constant_schedule(1.0)
    elif kind == "warm_up":
        unconverted = optax.linear_schedule(0.0, 1.0, rise)
    else:
        unconverted = optax.join_schedules(
            [_cosine(FIRST, 1.0, rise), _cosine(1.0, LAST, max(1, span - rise))], [rise]
        )

    def schedule(step: Any) -> jax.Array:
        # optax mixes Python floats with int32 steps, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            return jnp.asarray(unconverted(step), jnp.float32)

    return schedule


def _cosine(start: float, end: float, steps: int) -> optax.Schedule:
    def value(step: Any) -> jax.Array:
        part = jnp.clip(step / steps, 0, 1)
        return end + (start - end) * (1 + jnp.cos(jnp.pi * part)) / 2

    return value
