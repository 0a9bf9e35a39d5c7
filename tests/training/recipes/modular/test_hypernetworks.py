# SPDX-License-Identifier: Apache-2.0
"""Sizes as the authors' code states them, and what a code writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.modular.hypernetworks import Anil, Hypernetwork, Maml, layer_shapes, mlp, size

HYPERTEACHER, PREFERENCES, GOALS = (16, 8), (490, 5), (847, 6)


@pytest.mark.parametrize(
    ("learner", "sizes", "shared", "fast"),
    [
        # of the linear ones the authors count the codes alone; the bias starts from zero
        (Hypernetwork(width=128, depth=3, templates=64), HYPERTEACHER, 1_262_336 + 8, 264),
        (Hypernetwork(width=64, depth=3, templates=32), PREFERENCES, 1_149_216 + 5, 133),
        (Hypernetwork(width=32, depth=2, templates=8), GOALS, 227_144 + 6, 30),
        (
            Hypernetwork(width=128, depth=3, templates=64, linear=False),
            *(HYPERTEACHER, 648_192, 256),
        ),
        (
            Hypernetwork(width=64, depth=2, templates=32, linear=False),
            *(PREFERENCES, 1_162_816, 96),
        ),
        (Anil(width=512, depth=3), HYPERTEACHER, 538_120, 4_104),
        (Anil(width=512, depth=4), PREFERENCES, 1_041_925, 2_565),
        (Anil(width=512, depth=2), GOALS, 699_910, 3_078),
        (Maml(width=384, depth=3), HYPERTEACHER, 305_288, 305_288),
        (Maml(width=368, depth=3), PREFERENCES, 454_117, 454_117),
        (Maml(width=384, depth=2), GOALS, 475_782, 475_782),
    ],
)
def test_sizes_are_the_authors(learner, sizes, shared, fast):
    shapes = jax.eval_shape(lambda key: learner.init(key, *sizes), jax.random.key(0))
    assert size(shapes) == shared
    assert size(jax.eval_shape(learner.start, shapes)) == fast


@pytest.fixture(scope="module")
def linear():
    learner = Hypernetwork(width=6, depth=3, templates=5)
    return learner, learner.init(jax.random.key(1), 4, 3)


def test_a_linear_hypernetwork_adds_templates(linear):
    learner, shared = linear
    fast = learner.start(shared)
    layers = learner.weights(shared, fast, 4)
    assert [layer.w.shape for layer in layers] == layer_shapes(4, 6, 3, 3)
    for number, bank in ((0, "first"), (1, "hidden"), (2, "hidden"), (3, "last")):
        code = np.asarray(fast["code"][number], np.float64)
        row = code / np.linalg.norm(code) * 5**0.5 @ np.asarray(shared["banks"][bank], np.float64)
        ours = np.concatenate([np.asarray(layers[number].w).reshape(-1), layers[number].b])
        np.testing.assert_allclose(ours, row, rtol=2e-5, atol=1e-5)


def test_the_length_of_a_code_changes_nothing(linear):
    learner, shared = linear
    fast, x = learner.start(shared), jnp.ones((2, 4))
    longer = fast | {"code": 7.0 * fast["code"]}
    np.testing.assert_allclose(
        learner.outputs(shared, fast, x), learner.outputs(shared, longer, x), rtol=1e-3
    )


def test_written_weights_have_variance_one():
    learner = Hypernetwork(width=32, depth=2, templates=16)
    shared = learner.init(jax.random.key(0), 20, 3)
    layers = learner.weights(shared, learner.start(shared), 20)
    for layer in layers:
        assert 0.5 < float(layer.w.var()) < 1.5


def test_a_non_linear_one_is_not_linear():
    learner = Hypernetwork(width=4, depth=1, templates=3, linear=False)
    shared = learner.init(jax.random.key(0), 4, 2)
    start = learner.start(shared)
    assert set(start) == {"code"}

    def first(scale):
        return learner.weights(shared, {"code": scale * start["code"]}, 4)[0].w

    # layer norm on the input: the length of a code is lost, its sign is not
    np.testing.assert_allclose(first(3.0), first(1.0), atol=1e-3)
    assert float(jnp.abs(first(-1.0) + first(1.0)).max()) > 0.05


def test_anil_reads_out_of_a_shared_body():
    learner = Anil(width=5, depth=2)
    shared = learner.init(jax.random.key(0), 4, 2)
    x = normal(1, (3, 4))
    layers = [*shared["body"], shared["head"]]
    features = learner.features(shared, x)
    np.testing.assert_allclose(
        learner.outputs(shared, learner.start(shared), features), mlp(layers, x), rtol=1e-5
    )


def test_bad_sizes():
    with pytest.raises(UserError, match="0 layers of 4: expected at least 1 of 1"):
        Maml(width=4, depth=0)
    with pytest.raises(UserError, match="0 templates: expected at least 1"):
        Hypernetwork(width=4, depth=1, templates=0)
