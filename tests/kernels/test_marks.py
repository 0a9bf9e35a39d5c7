# SPDX-License-Identifier: Apache-2.0
"""The mark of a token: padding counts more than a start."""

import jax.numpy as jnp

from kernels.marks import NORMAL, PADDING, RESET, marks


def test_each_token_has_one_mark():
    reset_BT = jnp.array([[True, False, True, False]])
    real_BT = jnp.array([[True, True, False, False]])
    assert marks(reset_BT, None).tolist() == [[RESET, NORMAL, RESET, NORMAL]]
    assert marks(reset_BT, real_BT).tolist() == [[RESET, NORMAL, PADDING, PADDING]]
    assert marks(reset_BT, real_BT).dtype == jnp.int32
