# SPDX-License-Identifier: Apache-2.0
"""Arrays of random numbers. NumPy draws them: JAX compiles a program for every shape, of up to a
second of CPU time."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed: int, shape: Sequence[int]) -> jax.Array:
    """Standard normal, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
