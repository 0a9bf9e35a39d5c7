# SPDX-License-Identifier: Apache-2.0
"""One trunk, which does not see the stage, and a head for each."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.drawn import normal
from training.recipes.forgetting.stage_heads import StagesConfig, trunk
from training.recipes.vision.network import Network

NETWORK = Network(StagesConfig(stages=3, widths=(8, 8)), image_shape=(1, 1, 5), outputs=2)


def inputs(stages: list[int]) -> jax.Array:
    """The same robot in each of these stages."""
    robot = normal(1, (4,))
    rows = [jnp.concatenate([jnp.full((1,), stage, jnp.float32), robot]) for stage in stages]
    return jnp.stack(rows)[:, None, None]


def test_the_stage_picks_the_head_and_nothing_else():
    params = NETWORK.init(jax.random.key(0))[0]
    outputs = NETWORK.apply(params, {}, inputs([2, 0, 1, 0]))
    assert outputs.outputs_BO.shape == (4, 2)
    np.testing.assert_array_equal(outputs.features_BF - outputs.features_BF[:1], 0)
    np.testing.assert_array_equal(outputs.outputs_BO[1], outputs.outputs_BO[3])
    assert jnp.abs(outputs.outputs_BO[0] - outputs.outputs_BO[1]).min() > 1e-4
    head = params["head"]
    own = outputs.features_BF[0] @ head["kernel"][:, 4:6] + head["bias"][4:6]
    np.testing.assert_allclose(outputs.outputs_BO[0], own, rtol=1e-5)


def test_a_stage_teaches_its_own_head_and_the_trunk_of_all():
    params = NETWORK.init(jax.random.key(0))[0]

    def loss(params):
        return jnp.sum(NETWORK.apply(params, {}, inputs([1])).outputs_BO)

    grads = jax.grad(loss)(params)
    taught = jnp.abs(grads["head"]["kernel"]).sum(0) > 0
    assert taught.tolist() == [False, False, True, True, False, False]
    assert all(jnp.abs(x).max() > 0 for x in jax.tree.leaves(trunk(grads)))


def test_the_trunk_has_no_head_and_one_norm():
    shared = trunk(NETWORK.init(jax.random.key(0))[0])
    assert shared.keys() == {"hidden_0", "hidden_1"}
    assert [("norm" in layer) for layer in shared.values()] == [True, False]
