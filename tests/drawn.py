# SPDX-License-Identifier: Apache-2.0
"""Arrays of random numbers, and models of them. NumPy draws them: JAX compiles a program for every
shape, of up to a second of CPU time."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import from_flat_params


def normal(seed: int, shape: Sequence[int]) -> jax.Array:
    """Standard normal, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def integers(seed: int, shape: Sequence[int], below: int) -> jax.Array:
    """Uniform from 0 on, int32."""
    return jnp.asarray(np.random.default_rng(seed).integers(below, size=shape), jnp.int32)


def untrained(config: GriffinConfig, seed: int = 0) -> Griffin:
    """A model as it is before training: Griffin(config, rngs=nnx.Rngs(seed)) has other numbers of
    the same distributions, as recurrentgemma/test_blocks.py and test_layers.py hold it to."""
    rng = np.random.default_rng(seed)
    out = 2 / config.num_layers
    deviations = {
        "linear_out/weight": (out / config.lru_width) ** 0.5,
        "conv_1d/w": 0.05,
        "gate/w": config.lru_width**-0.5,
        "proj_final/weight": (out / config.num_heads / config.head_dim) ** 0.5,
        "ffw_gate/weight": (2 * config.width) ** -0.5,
        "ffw_up/weight": (2 * config.width) ** -0.5,
        "ffw_down/weight": (out / config.mlp_width) ** 0.5,
    }
    flat = {}
    for name, shape in param_shapes(config).items():
        if name.endswith(("scale", "bias", "/b")):
            value = np.zeros(shape)
        elif name.endswith("a_param"):
            if config.a_init == "paper":
                minus_log_a = -np.log(rng.uniform(0.9, 0.999, shape)) / 8
            else:
                minus_log_a = -np.log(rng.uniform(0.9**2, 0.999**2, shape)) / 2
            value = np.log(np.expm1(minus_log_a))
        else:
            std = [std for end, std in deviations.items() if name.endswith(end)]
            value = rng.normal(size=shape) * (std[0] if std else config.width**-0.5)
        flat[name] = jnp.asarray(value, config.param_dtype)
    return from_flat_params(config, flat)
