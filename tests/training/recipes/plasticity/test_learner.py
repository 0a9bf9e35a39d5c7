# SPDX-License-Identifier: Apache-2.0
"""A learner's choices do what they say, and what does not fit its network is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.plasticity.learner import Choices, Learner, rows_of, weights_norm
from training.recipes.rl.heads import Head
from training.recipes.vision.layers import Hidden
from training.recipes.vision.mlp import MLPConfig
from training.recipes.vision.resnet import ResNetConfig

SHAPE = (4, 4, 1)
MLP = MLPConfig(widths=(6,))
X_BHWC = normal(2, (5, *SHAPE))


def learner(**choices) -> Learner:
    return Learner(Choices(network=MLP, **choices), image_shape=SHAPE, numbers=3)


def mean_square(outputs_BOK: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(outputs_BOK))


def test_penalties_are_added_to_what_is_differentiated_and_not_to_the_loss():
    plain, l2 = learner(algorithm="sgd"), learner(algorithm="sgd", l2=0.5)
    state = plain.start(jax.random.key(0))
    (one, loss), (other, same_loss) = jax.jit(
        lambda state: [one.step(state, mean_square, X_BHWC) for one in (plain, l2)]
    )(state)
    assert float(loss) == float(same_loss)
    pulled = jax.tree.map(lambda w, a: a - 1e-3 * 2 * 0.5 * w, state.params, one.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), pulled, other.params)


def test_a_switch_resets_what_is_chosen_and_nothing_else():
    key = jax.random.key(1)
    plain = learner()
    state = plain.start(jax.random.key(0))
    state, _ = jax.jit(lambda state: plain.step(state, mean_square, X_BHWC))(state)
    jax.tree.map(np.testing.assert_array_equal, plain.switch(state, key), state)
    reset = learner(reset_head=True, reset_optimizer=True).switch(state, key)
    fresh = plain.network.init(key)[0]
    np.testing.assert_array_equal(reset.params["head"]["kernel"], fresh["head"]["kernel"])
    np.testing.assert_array_equal(
        reset.params["hidden_0"]["linear"]["kernel"], state.params["hidden_0"]["linear"]["kernel"]
    )
    assert all(not leaf.any() for leaf in jax.tree.leaves(reset.opt_state))


def test_a_head_of_bins_has_outputs_for_each_number():
    two_hot = learner(head=Head(kind="two_hot", bins=7))
    state = two_hot.start(jax.random.key(0))
    outputs_BO = two_hot.outputs(state.params, state.stats, X_BHWC).outputs_BO
    assert two_hot.shaped(outputs_BO).shape == (5, 3, 7)


def test_recycling_only_where_it_is_chosen():
    plain = learner()
    state = plain.start(jax.random.key(0))
    linear = state.params["hidden_0"]["linear"]
    dead = {"linear": {**linear, "bias": linear["bias"].at[0].set(-50.0)}}
    state = state._replace(params={**state.params, "hidden_0": dead})
    assert plain.recycled(state, X_BHWC, jax.random.key(3)) is state
    redo = learner(redo=True)
    after = jax.jit(lambda state: redo.recycled(state, X_BHWC, jax.random.key(3)))(state)
    bias = after.params["hidden_0"]["linear"]["bias"]
    assert float(bias[0]) == 0
    np.testing.assert_array_equal(bias[1:], dead["linear"]["bias"][1:])


@pytest.mark.parametrize("name", ["redo", "spectral_norm"])
def test_what_does_not_fit_the_network_is_refused(name):
    plain = Choices(network=ResNetConfig(streams=(4,), blocks=(1,)))
    choices = dataclasses.replace(plain, **{name: True})
    with pytest.raises(UserError, match=f"{name} with a resnet18: expected an mlp or a cnn"):
        Learner(choices, image_shape=SHAPE, numbers=3)


def test_units_of_a_convolution_have_a_row_for_each_position():
    z, a = rows_of(Hidden(jnp.ones((2, 3, 3, 5)), jnp.zeros((2, 3, 3, 5))))
    assert z.shape == a.shape == (18, 5)
    assert float(weights_norm({"a": jnp.asarray([3.0]), "b": jnp.asarray([4.0])})) == 5
