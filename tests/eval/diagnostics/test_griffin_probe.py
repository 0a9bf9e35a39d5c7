# SPDX-License-Identifier: Apache-2.0
"""The probe of a Griffin: random tokens are learned by heart, and only with an optimizer."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eval.diagnostics.griffin_probe import ProbeOptimizer, float32, learner, random_tokens
from recurrentgemma.losses import Batch
from tests.drawn import untrained
from tests.training.small_rows import CONFIG


def test_random_tokens_are_learned_by_heart():
    config = dataclasses.replace(CONFIG, pattern=("recurrent",), num_layers=1)
    graphdef, params = nnx.split(untrained(config), nnx.Param)
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, 64, (4, 12), np.int32)
    positions_BT = np.tile(np.arange(12, dtype=np.int32), (4, 1))
    positions_BT[3, 8:] = -1
    rows = Batch(
        *map(jnp.asarray, (tokens_BT, tokens_BT, np.zeros((4, 12), np.float32), positions_BT))
    )
    key = jax.random.key(0)
    random = random_tokens(rows, 64, key)
    assert np.asarray(random.weights_BT).sum() == 44  # what the text leaves out is learned, too
    assert not np.array_equal(random.targets_BT, rows.targets_BT)
    learn = learner(graphdef, ProbeOptimizer(learning_rate=2e-2).make(), steps=60, batch_size=4)
    before = jax.tree.map(np.array, params)
    loss, losses_K = learn(params, random, random, key)
    assert losses_K.shape == (60,)
    assert float(losses_K[0]) > math.log(64)  # worse than knowing nothing
    assert float(loss) < 0.5 * float(losses_K[0])
    jax.tree.map(np.testing.assert_array_equal, params, before)
    other = random_tokens(rows, 64, jax.random.key(1))
    assert float(learn(params, random, other, key)[0]) > float(losses_K[0])


def test_it_learns_in_float32():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    assert float32(params)["w"].dtype == jnp.float32
