# SPDX-License-Identifier: Apache-2.0
"""A fit to rows on the host."""

import jax.numpy as jnp
import numpy as np

from training.recipes.forgetting.copies import fitted


def test_a_line_is_fitted():
    x_S = np.linspace(-1, 1, 50).astype(np.float32)
    stored = {"x": x_S, "y": 0.3 * x_S + 0.1}

    def loss(params, batch):
        assert batch["x"].shape == (8,)
        return jnp.mean(jnp.square(params["a"] * batch["x"] + params["b"] - batch["y"]))

    start = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    params = fitted(loss, start, stored, updates=1500, rows=8, seed=0)
    np.testing.assert_allclose([params["a"], params["b"]], [0.3, 0.1], atol=0.01)
