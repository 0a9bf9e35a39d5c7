# SPDX-License-Identifier: Apache-2.0
"""Running mean and variance of a stream, by which observations, rewards or returns are scaled.

    moments = no_moments(shape)
    moments = extended(moments, values_N)           # [N, *shape]
    (values - moments.mean) / deviation(moments)

Batches are joined as Chan et al. (1983) do it. Legend: N values of a batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LEAST_VARIANCE = 1e-8


class Moments(NamedTuple):
    """count: of values, float32. Newly begun the mean is 0 and the variance 1."""

    count: jax.Array
    mean: jax.Array
    variance: jax.Array


def no_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Of nothing yet."""
    return Moments(jnp.zeros(()), jnp.zeros(shape), jnp.ones(shape))


def extended(moments: Moments, values_N: jax.Array) -> Moments:
    """With a batch; biased variance of all."""
    values_N = values_N.astype(jnp.float32)
    new, mean, variance = float(len(values_N)), jnp.mean(values_N, 0), jnp.var(values_N, 0)
    count = moments.count + new
    off = mean - moments.mean
    squares = moments.variance * moments.count + variance * new
    squares += jnp.square(off) * (moments.count * new / count)
    return Moments(count, moments.mean + off * (new / count), squares / count)


def deviation(moments: Moments) -> jax.Array:
    """The root of the variance, never 0."""
    return jnp.sqrt(jnp.maximum(moments.variance, LEAST_VARIANCE))
