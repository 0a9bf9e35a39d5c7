# SPDX-License-Identifier: Apache-2.0
"""Next tokens as an objective, which test_step.py and others train by."""

import jax
import numpy as np
from flax import nnx

from recurrentgemma.losses import next_token_loss
from tests.training.small_rows import CONFIG
from tests.training.test_sharded_step import batches, initial
from training.objective import NextTokens


def test_it_is_the_loss_of_the_targets():
    graphdef, params = initial_model = initial(CONFIG)
    model, (batch,) = nnx.merge(*initial_model), batches(1)
    objective = NextTokens(z_loss=0.1)

    @jax.jit
    def run(params):
        model = nnx.merge(graphdef, params)
        loss, (metrics, state) = objective(model, (), batch, None, ())
        assert metrics.keys() == objective.names
        assert state is None
        return loss, metrics, objective.count(batch)

    loss, metrics, count = run(params)
    np.testing.assert_allclose(loss, next_token_loss(model, batch, z_loss=0.1)[0], rtol=1e-5)
    assert count == metrics["tokens"] == batch.weights_BT.sum()
