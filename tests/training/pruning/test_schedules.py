# SPDX-License-Identifier: Apache-2.0
"""The one-cycle's ends and its peak, and the schedules that it is compared to."""

import jax
import numpy as np
import optax
import pytest

from training.pruning.schedules import penalty_schedule


def values(kind, steps) -> np.ndarray:
    schedule = penalty_schedule(kind, 100)
    return np.array([schedule(np.int32(step)) for step in steps])


def test_the_one_cycle_is_optax_s():
    steps = (0, 10, 30, 31, 65, 99, 100, 500)
    reference = optax.cosine_onecycle_schedule(100, 1.0, 0.3, 25.0, 1e4)
    with jax.numpy_dtype_promotion("standard"):
        expected = [np.asarray(reference(step)) for step in steps]
    np.testing.assert_allclose(values("one_cycle", steps), expected, rtol=1e-5, atol=1e-9)
    ends = values("one_cycle", (0, 30, 100, 500))
    assert ends == pytest.approx([1 / 25, 1, 4e-6, 4e-6], rel=1e-3)


def test_warm_up_and_constant():
    assert values("warm_up", (0, 15, 30, 500)) == pytest.approx([0, 0.5, 1, 1])
    assert values("constant", (0, 500)) == pytest.approx([1, 1])
