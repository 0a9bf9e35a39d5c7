# SPDX-License-Identifier: Apache-2.0
"""gelu(gate) * x, whose backward pass keeps its two inputs and recomputes the rest.

JAX's own rule would keep every intermediate of the GELU in memory, which costs more time than
computing it again.
"""

import math

import jax
import jax.numpy as jnp

_A, _B = math.sqrt(2 / math.pi), 0.044715  # the tanh form, as in every RecurrentGemma code


@jax.custom_vjp
def gelu_gate(gate: jax.Array, x: jax.Array) -> jax.Array:
    """gelu(gate) * x of two arrays of one shape and dtype; computed in float32."""
    gate32 = gate.astype(jnp.float32)
    return (jax.nn.gelu(gate32) * x.astype(jnp.float32)).astype(x.dtype)


def _fwd(gate: jax.Array, x: jax.Array):
    return gelu_gate(gate, x), (gate, x)


def _bwd(residuals, g: jax.Array):
    gate, x = residuals
    z, x32, g32 = gate.astype(jnp.float32), x.astype(jnp.float32), g.astype(jnp.float32)
    tanh = jnp.tanh(_A * (z + _B * z * z * z))
    half = 0.5 * (1 + tanh)
    slope = half + 0.5 * z * (1 - tanh * tanh) * _A * (1 + 3 * _B * z * z)
    return (g32 * x32 * slope).astype(gate.dtype), (g32 * z * half).astype(x.dtype)


gelu_gate.defvjp(_fwd, _bwd)
