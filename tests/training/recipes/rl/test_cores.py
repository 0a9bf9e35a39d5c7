# SPDX-License-Identifier: Apache-2.0
"""A core's state contract: a row of many episodes is each episode alone, whatever the cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.drawn import normal
from training.recipes.rl.cores import CoreConfig, CoreKind, core_of, positions

FIRST = jnp.zeros((2, 11), bool).at[:, 0].set(True).at[0, 4].set(True).at[1, 9].set(True)
X = normal(0, (2, 11, 16))


@pytest.mark.parametrize("kind", ["hawk", "griffin", "lstm", "gru", "none"])
def test_a_row_of_episodes_is_each_alone_whatever_the_cuts(kind: CoreKind):
    core = core_of(CoreConfig(kind=kind, width=16, window=3), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(core)
    call = jax.jit(lambda x, state, first: nnx.merge(graphdef, params)(x, state, first))
    whole, last = call(X, core.start(2), FIRST)
    state, pieces = core.start(2), []
    for cut in (slice(0, 1), slice(1, 6), slice(6, 11)):
        y, state = call(X[:, cut], state, FIRST[:, cut])
        pieces.append(y)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=2e-5)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    alone, _ = call(X[:1, 4:9], core.start(1), FIRST[:1, 4:9])
    np.testing.assert_allclose(alone[0], whole[0, 4:9], atol=2e-5)
    remembers = jnp.abs(call(X.at[0, 4].add(1), core.start(2), FIRST)[0] - whole)[0]
    assert float(remembers[:4].max()) == 0
    assert (float(remembers[5:].max()) > 1e-4) == (kind != "none")


def test_positions_go_on_from_the_state():
    core = core_of(CoreConfig(kind="hawk", width=16), rngs=nnx.Rngs(0))
    state = core.start(2)._replace(position_B=jnp.int32([7, 3]))
    first = jnp.array([[False, False, True, False], [True, False, False, False]])
    np.testing.assert_array_equal(positions(state, first), [[7, 8, 0, 1], [0, 1, 2, 3]])
