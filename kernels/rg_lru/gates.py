# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU's gates and their gradients, token by token: all of it but the recurrence.

Elementwise over arrays that broadcast against each other, in float32; shared by the
implementations, in XLA and inside Pallas kernels alike.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

C = 8.0  # the paper's c: a_t = a^(c r_t)
MAX_SQRT_GRADIENT = 1000.0  # RecurrentGemma paper, section 2


class Functions(NamedTuple):
    """Functions that a compiler may lack or be slow at, so that its kernels bring their own."""

    sigmoid: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
    sqrt: Callable[[jax.Array], jax.Array] = jnp.sqrt


JAX = Functions()


def decay(a_param_E: jax.Array) -> jax.Array:
    """-c softplus(a_param): log a_t where the gate is fully open, float32."""
    return -C * jax.nn.softplus(a_param_E.astype(jnp.float32))


def one_minus_exp(z: jax.Array) -> jax.Array:
    """1 - e^z for z <= 0, exact to float32 near 0 too; Mosaic has no expm1."""
    series = 1.0 + z * (1 / 7)
    for n in (6, 5, 4, 3, 2):
        series = 1.0 + z * (1 / n) * series
    return jnp.where(z > -0.5, -z * series, 1.0 - jnp.exp(z))


def scan_inputs(
    x: jax.Array,
    input_gate: jax.Array,
    a_gate: jax.Array,
    decay: jax.Array,
    reset: jax.Array,
    padding: jax.Array | None,
    *,
    functions: Functions = JAX,
) -> tuple[jax.Array, jax.Array]:
    """(sqrt(1 - a^2) i x, a): what the linear scan takes. At a reset (1, 0) stand for (sqrt, a); at
    padding the two are (0, 1)."""
    log_a = decay * functions.sigmoid(a_gate.astype(jnp.float32))
    multiplier = jnp.where(reset, 1.0, functions.sqrt(one_minus_exp(2 * log_a)))
    scan_x = multiplier * functions.sigmoid(input_gate.astype(jnp.float32)) * x.astype(jnp.float32)
    if padding is not None:
        scan_x = jnp.where(padding, 0.0, scan_x)
    return scan_x, _masked(jnp.exp(log_a), reset, padding)


def scan_decay(
    a_gate: jax.Array,
    decay: jax.Array,
    reset: jax.Array,
    padding: jax.Array | None,
    *,
    functions: Functions = JAX,
) -> jax.Array:
    """a alone of scan_inputs."""
    log_a = decay * functions.sigmoid(a_gate.astype(jnp.float32))
    return _masked(jnp.exp(log_a), reset, padding)


def _masked(a: jax.Array, reset: jax.Array, padding: jax.Array | None) -> jax.Array:
    a = jnp.where(reset, 0.0, a)
    return a if padding is None else jnp.where(padding, 1.0, a)


def gradients(
    d_scan_x: jax.Array,
    h_before: jax.Array,
    x: jax.Array,
    input_gate: jax.Array,
    a_gate: jax.Array,
    decay: jax.Array,
    reset: jax.Array,
    padding: jax.Array | None,
    *,
    functions: Functions = JAX,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Gradients of x, input gate, a gate, and of decay before its sum over tokens.

    d_scan_x is the gradient of scan_x, and so of h_t where the future is counted in; that of scan_a
    is d_scan_x h_before. At padding all are 0, whatever lies there.
    """
    x, input_gate, a_gate = (v.astype(jnp.float32) for v in (x, input_gate, a_gate))
    if padding is not None:
        x, input_gate, a_gate = (jnp.where(padding, 0.0, v) for v in (x, input_gate, a_gate))
    i, r = functions.sigmoid(input_gate), functions.sigmoid(a_gate)
    log_a = decay * r
    a = jnp.exp(log_a)
    squared = one_minus_exp(2 * log_a)  # 1 - a^2
    if padding is not None:
        d_scan_x = jnp.where(padding, 0.0, d_scan_x)
    d_log_a = d_scan_x * h_before * a + d_scan_x * i * x * sqrt_gradient(squared) * (-2 * a * a)
    d_log_a = jnp.where(reset, 0.0, d_log_a)
    multiplied = d_scan_x * jnp.where(reset, 1.0, functions.sqrt(squared))
    d_i = multiplied * x
    return multiplied * i, d_i * i * (1 - i), d_log_a * decay * r * (1 - r), d_log_a * r


def sqrt_gradient(squared: jax.Array) -> jax.Array:
    """The derivative of the square root, clipped at MAX_SQRT_GRADIENT."""
    floor = 1 / (4 * MAX_SQRT_GRADIENT**2)
    return 0.5 * jax.lax.rsqrt(jnp.maximum(squared, floor))
