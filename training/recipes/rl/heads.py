# SPDX-License-Identifier: Apache-2.0
"""Heads that predict numbers: a number itself, or a distribution over bins whose mean it is.

A regression on targets of a large scale destroys what a network can learn later; a cross-entropy
over bins does not see the scale (arXiv 2402.18762, "target scale").

    two_hot    the target's mass on its two neighbouring bins, so that its mean is the target
    gaussian   a histogram of a Gaussian around the target ("HL-Gauss", Imani and White, 2018)

Legend: K bins; other axes lead.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """bins, low, high: of a distribution; targets beyond its ends count as the ends."""

    kind: Literal["number", "two_hot", "gaussian"] = "number"
    bins: int = 51
    low: float = 0.0
    high: float = 20.0
    width: float = 0.75
    """Of the Gaussian, its standard deviation in bins."""

    @property
    def outputs(self) -> int:
        """Of the network, for each number."""
        return 1 if self.kind == "number" else self.bins


def support(head: Head) -> jax.Array:
    """The values of the bins, float32 [K]."""
    share_K = jnp.arange(head.bins, dtype=jnp.float32) / (head.bins - 1)
    return head.low + (head.high - head.low) * share_K


def two_hot(values: jax.Array, support_K: jax.Array) -> jax.Array:
    """[..., K]: non-negative, their sum 1, their mean the value (within the ends)."""
    step = support_K[1] - support_K[0]
    inside = jnp.clip(values, support_K[0], support_K[-1])
    off = jnp.abs(inside[..., None] - jnp.broadcast_to(support_K, (*values.shape, support_K.size)))
    return jnp.maximum(1 - off / step, 0)


def gaussian_histogram(values: jax.Array, support_K: jax.Array, width: jax.Array) -> jax.Array:
    """[..., K]: the mass of N(value, (width * bin)^2) in each bin, renormalised within the ends."""
    step = support_K[1] - support_K[0]
    inside = jnp.clip(values, support_K[0], support_K[-1])[..., None]
    edges = jnp.concatenate([support_K - step / 2, support_K[-1:] + step / 2])
    edges = jnp.broadcast_to(edges, (*values.shape, edges.size))
    below = jax.scipy.stats.norm.cdf((edges - inside) / (width * step))
    mass = jnp.diff(below, axis=-1)
    return mass / jnp.sum(mass, -1, keepdims=True)


def decode(head: Head, outputs: jax.Array) -> jax.Array:
    """[..., K] of a network (K is 1 for a number) -> the numbers [...]."""
    if head.kind == "number":
        return outputs[..., 0]
    return jax.nn.softmax(outputs, -1) @ support(head)


def value_loss(head: Head, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """[...]: the squared error of a number, the cross-entropy of a distribution."""
    if head.kind == "number":
        return jnp.square(outputs[..., 0] - targets)
    encoded = (
        two_hot(targets, support(head))
        if head.kind == "two_hot"
        else gaussian_histogram(targets, support(head), jnp.asarray(head.width, jnp.float32))
    )
    return -jnp.sum(encoded * jax.nn.log_softmax(outputs, -1), -1)
