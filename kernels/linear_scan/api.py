# SPDX-License-Identifier: Apache-2.0
"""The linear scan h_t = a_t h_{t-1} + x_t with its gradients (Griffin paper, section 4.2)."""

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.linear_scan import reference, sharded, vjp


def linear_scan(
    x_BTE: jax.Array,
    a_BTE: jax.Array,
    h0_BE: jax.Array | None = None,
    *,
    reverse: bool = False,
    axis: str | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """All h_t = a_t h_{t-1} + x_t of a sequence, and the last of them.

    Args:
      x_BTE: inputs, float32 or bfloat16; T >= 1, any E.
      a_BTE: decays, of x's shape.
      h0_BE: state before the first token (zero by default), float32.
      reverse: run from the last token to the first; the last state is then that of token 0.
      axis: mesh axis (inside jax.shard_map) over which the sequence is cut: x and a are this
        device's part, h0 and the last state the whole's, equal on all devices of the axis.
      implementation: a name of vjp.IMPLEMENTATIONS; None takes the best for the platform.

    Returns:
      h_BTE in x's dtype, accumulated in float32, and h_last_BE in float32.

    Raises:
      ValueError: shapes disagree, a dtype is none of those above, the implementation is unknown, or
        it is `reference` with an axis.
    """
    check(x_BTE, a_BTE, h0_BE, implementation)
    if h0_BE is None:
        h0_BE = jnp.zeros((x_BTE.shape[0], x_BTE.shape[2]), jnp.float32)
    if implementation is None and x_BTE.shape[1] == 1:
        implementation = "xla"  # one token is no loop anywhere
    h0_BE = h0_BE.astype(jnp.float32)
    if axis is not None:
        return sharded.scan(x_BTE, a_BTE, h0_BE, axis, reverse, implementation)
    if implementation == "reference":
        return reference.scan(x_BTE, a_BTE, h0_BE, reverse)  # with the gradients that JAX derives
    return vjp.scan(x_BTE, a_BTE, h0_BE, reverse, implementation)


def check(x_BTE, a_BTE, h0_BE, implementation: str | None) -> None:
    """Raises ValueError as linear_scan."""
    platform.check_dtypes("linear_scan", jnp.floating, x=x_BTE, a=a_BTE, h0=h0_BE)
    if x_BTE.ndim != 3 or x_BTE.shape != a_BTE.shape or 0 in x_BTE.shape:
        raise ValueError(
            f"linear_scan: x has shape {x_BTE.shape} and a {a_BTE.shape}; expected one shape "
            "[B, T, E] of at least one row, token and channel"
        )
    expected = (x_BTE.shape[0], x_BTE.shape[2])
    if h0_BE is not None and h0_BE.shape != expected:
        raise ValueError(f"linear_scan: h0 has shape {h0_BE.shape}; expected {expected}")
    platform.check("linear_scan", implementation, vjp.IMPLEMENTATIONS)
