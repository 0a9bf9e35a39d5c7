# SPDX-License-Identifier: Apache-2.0
"""The causal convolution against its definition, with all gradients."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels.conv import causal_conv
from tests.kernels.compare import draw, same, value_and_gradients


@pytest.mark.parametrize("time", [1, 2, 7])
def test_within_documents_and_from_the_past(time):
    x, past = draw(0, 2, time, 5), draw(1, 2, 3, 5)
    w, b = draw(2, 4, 5), draw(3, 5)
    where = np.stack([10 + np.arange(time), np.arange(time)])
    where[0, time // 2 :] = np.arange(time - time // 2)
    where = jnp.asarray(where)

    def by_definition(x, w, b, past):
        full = jnp.concatenate([past, x], 1)
        rows = []
        for t in range(time):
            out = jnp.broadcast_to(b[None], x[:, 0].shape)
            for s in range(4):
                out += jnp.where(
                    (where[:, t] >= s)[:, None], w[3 - s][None] * full[:, t + 3 - s], 0
                )
            rows.append(out)
        return jnp.stack(rows, 1)

    got = value_and_gradients(
        lambda x, w, b, past: causal_conv(x, w, b, past, where), x, w, b, past
    )
    same(got, value_and_gradients(by_definition, x, w, b, past), 2e-6)
