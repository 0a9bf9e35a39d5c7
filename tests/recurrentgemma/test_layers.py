# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding: DeepMind's angles where models were trained, and exact at any distance. The
initial decay of the RG-LRU."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.layers import ROPE_BASE, rotary
from recurrentgemma.params import flat_params
from tests.drawn import normal, untrained

TRAINED = 8192  # tokens that RecurrentGemma was trained on at a time


def angles(distance: np.ndarray, head_dim: int, dtype: Any = np.float64) -> np.ndarray:
    """DeepMind's angles, [T, K/4], in this precision."""
    quarter = head_dim // 4
    timescale = dtype(ROPE_BASE) ** (np.arange(quarter, dtype=dtype) / dtype(quarter))
    return distance.astype(dtype)[:, None] / timescale


def turned(distance: np.ndarray, head_dim: int) -> np.ndarray:
    """exp(i angle), [T, K/4], of rotary at these distances, from heads of ones and zeros."""
    quarter = head_dim // 4
    x = jnp.zeros((1, len(distance), 1, head_dim)).at[..., :quarter].set(1)
    y = np.asarray(rotary(x, jnp.asarray(distance.astype(np.uint32))[None])[0, :, 0], np.float64)
    return y[:, :quarter] + 1j * y[:, quarter : 2 * quarter]


@pytest.mark.parametrize("head_dim", [16, 128, 256])
def test_angles_are_deepminds_over_the_trained_length(head_dim: int):
    distance = np.arange(TRAINED)
    exact = np.exp(1j * angles(distance, head_dim))
    ours = np.abs(turned(distance, head_dim) - exact).max()
    theirs = np.abs(np.exp(1j * angles(distance, head_dim, np.float32)) - exact).max()
    assert ours < 1e-5  # 6e-6 is half a unit of the frequency, 8,192 times
    assert ours < theirs  # float32 angles of that size are 2.4e-4 apart


@pytest.mark.parametrize("history", [10**6, 2**24, 10**8, 2 * 10**9, 2**31 - 4, 2**32 - 4])
def test_two_tokens_differ_by_the_same_angle_anywhere(history: int):
    step = np.arange(8)
    near, far = turned(step, 256), turned((history + step) % 2**32, 256)
    np.testing.assert_allclose(far[1:] / far[:1], near[1:] / near[:1], rtol=0, atol=1e-6)


def test_only_half_of_each_head_turns():
    x = normal(0, (1, 3, 2, 16))
    y = rotary(x, jnp.array([[0, 1, 10**6]]))
    np.testing.assert_array_equal(y[..., 8:], x[..., 8:])
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
    assert (y[:, 1:, :, :8] != x[:, 1:, :, :8]).all()


@pytest.mark.parametrize(
    "make", [lambda config: Griffin(config, rngs=nnx.Rngs(0)), untrained], ids=["ours", "of tests"]
)
@pytest.mark.parametrize("a_init", ["code", "paper"])
def test_initial_decay(a_init: str, make: Callable[[GriffinConfig], Griffin]):
    config = dataclasses.replace(rg.tiny(), num_layers=1, lru_width=4096, a_init=a_init)
    a_param = flat_params(make(config))["blocks.0/recurrent_block/rg_lru/a_param"]
    a = np.exp(-np.asarray(jax.nn.softplus(a_param)))
    drawn = a if a_init == "code" else a**8
    assert 0.9 <= drawn.min() < 0.901
    assert 0.998 < drawn.max() <= 0.999001
    power = 2 if a_init == "code" else 1  # a^2 is uniform in the code, a^8 in the paper
    middle = (0.9**power + 0.999**power) / 2
    assert np.mean(drawn**power) == pytest.approx(middle, abs=0.003)
