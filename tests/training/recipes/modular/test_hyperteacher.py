# SPDX-License-Identifier: Apache-2.0
"""Tasks of the hyperteacher: modules add up, outputs are standardised, a perfect answer costs 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.modular.hyperteacher import HyperTeacher
from training.recipes.modular.support import Support

SUPPORT = Support(kind="random", modules=4, hot=2, layers=2)
FAMILY = HyperTeacher(
    support=SUPPORT, inputs=5, width=6, outputs=3, shots=7, queries=200, moments=400
)


@pytest.fixture(scope="module")
def drawn():
    world = FAMILY.world({}, jax.random.key(0))
    code_LM = jnp.asarray([[1.0, 1, 0, 0], [0, 0, 0, 1]])
    return world, code_LM, FAMILY.task(world, code_LM, jax.random.key(1), 7)


def test_a_code_picks_modules_by_layer(drawn):
    world, code_LM, task = drawn
    x = np.asarray(task.query.x_PI, np.float64)
    first, theta, last = (np.asarray(leaf, np.float64) for leaf in world[:3])
    hidden = np.maximum(x @ first / 5**0.5, 0)
    hidden = np.maximum(hidden @ (theta[0, 0] + theta[0, 1]) / 6**0.5, 0)
    hidden = np.maximum(hidden @ theta[1, 3] / 6**0.5, 0)
    np.testing.assert_allclose(
        world.outputs(code_LM, task.query.x_PI), hidden @ last / 6**0.5, rtol=1e-4, atol=1e-5
    )


def test_targets(drawn):
    world, code_LM, task = drawn
    assert task.support.x_PI.shape == (7, 5)
    assert task.query.y_PO.shape == (200, 3)
    np.testing.assert_allclose(task.query.y_PO.sum(-1), 1.0, rtol=1e-5)
    assert float(jnp.abs(task.query.x_PI).max()) <= 1.0
    raw = world.outputs(code_LM, world.moments_PI)
    standard = (raw - raw.mean(0, keepdims=True)) / raw.std(0, keepdims=True)
    best = jax.nn.softmax(standard / 0.1).argmax(-1)
    assert len(set(best.tolist())) > 1, "no class takes all"


def test_a_perfect_answer(drawn):
    query = drawn[2].query
    perfect = jnp.log(jnp.maximum(query.y_PO, 1e-30))
    np.testing.assert_allclose(FAMILY.loss(perfect, query), 0.0, atol=1e-5)
    assert float(FAMILY.scores(perfect, query)["accuracy"]) == 1.0
    assert float(FAMILY.loss(jnp.zeros_like(perfect), query)) > 0.1


def test_codes_by_name():
    family = HyperTeacher(support=SUPPORT, hots=(1, 4))
    codes = family.prepare(0)["codes"]
    assert set(codes) == {"train", "out", "K 1", "K 4"}
    assert len(codes["train"]) + len(codes["out"]) == 100
    assert codes["K 4"].shape == (1, 2, 4)


def test_bad_input():
    with pytest.raises(UserError, match="1 layers of modules: expected 2"):
        HyperTeacher(support=Support(kind="random", modules=4, hot=2))
    with pytest.raises(UserError, match="shots 0"):
        HyperTeacher(support=SUPPORT, shots=0)
