# SPDX-License-Identifier: Apache-2.0
"""Two-hot and histogram heads encode a number so that it is read back, at any scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.recipes.rl.heads import (
    Head,
    decode,
    gaussian_histogram,
    support,
    two_hot,
    value_loss,
)

HEAD = Head(kind="two_hot", bins=9, low=-2.0, high=6.0)


@given(st.floats(-4, 8, width=32))
def test_two_hot_is_read_back_and_has_two_neighbours(value: float):
    encoded = np.asarray(two_hot(jnp.asarray([value], jnp.float32), support(HEAD)))[0]
    assert encoded.min() >= 0
    assert encoded.sum() == pytest.approx(1, abs=1e-5)
    inside = min(max(value, -2), 6)
    assert encoded @ np.asarray(support(HEAD)) == pytest.approx(inside, abs=1e-5)
    places = np.flatnonzero(encoded > 1e-6)
    assert 1 <= len(places) <= 2
    assert np.ptp(places) <= 1


def test_a_histogram_is_read_back_far_from_the_ends():
    values = jnp.asarray([0.3, 2.0, 3.9])
    encoded = gaussian_histogram(values, support(HEAD), jnp.asarray(0.75))
    np.testing.assert_allclose(encoded.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(encoded @ support(HEAD), values, atol=0.02)
    assert (jnp.sum(encoded > 1e-4, -1) > 2).all()


@pytest.mark.parametrize("kind", ["number", "two_hot", "gaussian"])
def test_the_least_loss_is_at_the_target(kind):
    head = Head(kind=kind, bins=9, low=-2.0, high=6.0)
    target = jnp.asarray([1.5])
    gradient = jax.grad(lambda outputs: value_loss(head, outputs, target).sum())
    outputs = jax.lax.fori_loop(
        0, 300, lambda _, outputs: outputs - 0.3 * gradient(outputs), jnp.zeros((1, head.outputs))
    )
    assert float(decode(head, outputs)[0]) == pytest.approx(1.5, abs=0.05)


def test_the_scale_of_the_targets_reaches_a_number_and_no_distribution():
    def size(kind, scale: float) -> float:
        head = Head(kind=kind, bins=9, low=-2.0 * scale, high=6.0 * scale)
        target = jnp.asarray([4.0 * scale])
        outputs = jnp.zeros((1, head.outputs))
        return float(jnp.abs(jax.grad(lambda o: value_loss(head, o, target).sum())(outputs)).max())

    assert size("number", 100.0) == pytest.approx(100 * size("number", 1.0))
    assert size("two_hot", 100.0) == pytest.approx(size("two_hot", 1.0), rel=1e-5)
