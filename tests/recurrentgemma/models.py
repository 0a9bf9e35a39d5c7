# SPDX-License-Identifier: Apache-2.0
"""Small models of every kind, with parameters that make each part matter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.state import State
from tests.drawn import integers, untrained

WINDOW = 8

GRIFFIN = GriffinConfig(
    width=32,
    mlp_width=48,
    num_layers=5,  # a whole pattern and a tail of two
    lru_width=48,
    num_gate_blocks=4,
    num_heads=2,
    head_dim=16,
    vocab_size=64,
    attention_window=WINDOW,
    context_length=128,
    scale_embeddings=True,
    logits_soft_cap=30.0,
)
# The contract takes dozens of programs a model: one layer of each kind, and one after attention.
SHORT = dataclasses.replace(
    GRIFFIN, pattern=("recurrent", "local_attention", "recurrent"), num_layers=3
)
CONFIGS = {
    "griffin": GRIFFIN,
    "hawk": dataclasses.replace(GRIFFIN, pattern=("recurrent",), num_layers=2),
    "mqa": dataclasses.replace(
        GRIFFIN, pattern=("global_attention",), num_layers=2, logits_soft_cap=None
    ),
}


@functools.cache
def make(kind: str, dtype: str = "float32") -> Griffin:
    """A model whose biases and norm scales are not zero, so that none of them can be forgotten."""
    config = SHORT if kind == "short" else CONFIGS[kind]
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    flat, rng = flat_params(untrained(config)), np.random.default_rng(2)
    for name, value in flat.items():
        if name.endswith(("bias", "/b", "scale")):
            flat[name] = jnp.asarray(0.3 * rng.normal(size=value.shape), value.dtype)
        elif name.endswith("conv_1d/w"):
            flat[name] = jnp.asarray(0.5 * rng.normal(size=value.shape), value.dtype)
    return from_flat_params(config, flat)


def call(
    model: Griffin,
    tokens_BT: ArrayLike,
    state: State | None = None,
    *,
    positions: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
) -> tuple[jax.Array, State]:
    """The model, compiled: once for each shape, and for each of the arguments given or not."""
    return _call(*nnx.split(model), tokens_BT, state, positions, lengths)


@functools.partial(jax.jit, static_argnums=0)
def _call(graphdef, params, tokens_BT, state, positions, lengths):
    model = nnx.merge(graphdef, params)
    return model(tokens_BT, state, positions=positions, lengths=lengths)


def tokens(seed: int, *shape: int) -> jax.Array:
    return integers(seed, shape, GRIFFIN.vocab_size)
