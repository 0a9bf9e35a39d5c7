# SPDX-License-Identifier: Apache-2.0
"""The network reads every part of the screen, remembers, and has the paper's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from training.recipes.forgetting.nethack import Seen
from training.recipes.forgetting.nethack_network import (
    HackAgent,
    HackNetwork,
    around,
    paper_network,
)
from training.recipes.rl.cores import CoreConfig

TINY = HackNetwork(
    core=CoreConfig(kind="lstm", width=8, blocks=1),
    embedded=2,
    channels=(2,),
    residual=1,
    crop=3,
    units=4,
)


def seen(**changed):
    parts = {
        "chars": np.full((1, 2, 24, 80), 32, np.uint8),
        "colors": np.zeros((1, 2, 24, 80), np.uint8),
        "cursor": np.full((1, 2, 2), 5, np.int32),
        "action": np.zeros((1, 2), np.int32),
    }
    return Seen(**jax.tree.map(jnp.asarray, parts | changed))


def test_every_part_counts_and_the_first_step_is_remembered():
    agent = HackAgent(TINY, 5, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(agent)
    first_12 = jnp.asarray([[True, False]])
    judge = jax.jit(lambda x: nnx.merge(graphdef, params)(x, agent.core.start(1), first_12))
    outputs_12A, value_12, _ = judge(seen())
    assert outputs_12A.shape == (1, 2, 5)
    assert value_12.shape == (1, 2)
    base = seen()
    changes = {"cursor": base.cursor.at[0, 0].set(9), "action": base.action.at[0, 0].set(3)}
    changes["colors"] = base.colors.at[0, 0, 10, 40].set(3)
    pictures = [base._replace(**{name: value}) for name, value in changes.items()]
    marked = base._replace(chars=base.chars.at[0, 0, 4, 5].set(64))
    lines = [base._replace(chars=base.chars.at[0, 0, row, 3].set(65)) for row in (0, 10, 22, 23)]
    for other in [*lines, *pictures[1:], marked, marked._replace(cursor=changes["cursor"])]:
        changed_12A = judge(other)[0]
        assert np.abs(changed_12A - outputs_12A)[0, 0].max() > 0
        assert np.abs(changed_12A - outputs_12A)[0, 1].max() > 0  # only the memory has it
    assert (judge(marked)[0] != judge(marked._replace(cursor=changes["cursor"]))[0]).any()


def test_a_square_around_the_cursor():
    x_1HWe = jnp.arange(24 * 80, dtype=jnp.float32).reshape(1, 24, 80, 1)
    square = around(x_1HWe, jnp.asarray([[0, 79]]), 3)[0, ..., 0]
    np.testing.assert_array_equal(square, [[0, 0, 0], [78, 79, 0], [158, 159, 0]])


@pytest.mark.parametrize("kind", ["lstm", "hawk"])
def test_the_papers_size(kind):
    agent = nnx.eval_shape(lambda: HackAgent(paper_network(kind), 121, rngs=nnx.Rngs(0)))
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(agent, nnx.Param))]
    assert 27e6 < sum(sizes) < 45e6
