# SPDX-License-Identifier: Apache-2.0
"""Fitting a policy to stored rows that stay on the host, where they may be many.

    params = fitted(loss, params, stored, updates=500, rows=16, seed=0)

Legend: S stored rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from training.recipes.rl.recurrent_host import drawn_rows

RATE = 1e-3


def fitted(
    loss: Callable[[Any, Any], jax.Array],
    params: Any,
    stored: Any,
    *,
    updates: int,
    rows: int,
    seed: int,
) -> Any:
    """Parameters after so many steps of Adam. stored: a tree [S, ...]; loss: of the parameters and
    `rows` of it."""
    tx = optax.adam(RATE)
    drawn = drawn_rows(stored, rows, seed)

    @jax.jit
    def update(params: Any, opt_state: Any, batch: Any) -> tuple[Any, Any]:
        grads = jax.grad(loss)(params, batch)
        # optax raises a float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            changes, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), opt_state

    opt_state = tx.init(params)
    for number in range(updates):
        params, opt_state = update(params, opt_state, drawn(number))
    return params
