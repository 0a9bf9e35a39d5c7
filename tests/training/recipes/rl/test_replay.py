# SPDX-License-Identifier: Apache-2.0
"""A ring: the oldest goes first, and nothing is drawn that was not added."""

import jax
import jax.numpy as jnp

from training.recipes.rl.replay import added, drawn, empty


def test_the_oldest_goes_first():
    buffer = empty(6, {"x": jnp.int32(0)})
    for start in (1, 3, 5, 7):
        buffer = added(buffer, {"x": jnp.arange(start, start + 2)})
        seen = set(drawn(buffer, jax.random.key(start), 200)["x"].tolist())
        assert seen == set(range(max(1, start - 4), start + 2))


def test_what_was_added_first_may_stay_for_good():
    buffer = added(empty(6, {"x": jnp.int32(0)}), {"x": jnp.arange(2)})
    for start in (2, 4, 6, 8, 10):
        rows = {"x": jnp.arange(start, start + 2)}
        buffer = added(buffer, rows, protected=2)
        seen = set(drawn(buffer, jax.random.key(start), 200)["x"].tolist())
        assert seen == {0, 1, *range(max(2, start - 2), start + 2)}
