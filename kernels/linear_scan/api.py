# SPDX-License-Identifier: Apache-2.0
"""The linear scan h_t = a_t h_{t-1} + x_t with its gradients (Griffin paper, section 4.2)."""

import functools

import jax
import jax.numpy as jnp

from kernels.linear_scan import reference, xla

IMPLEMENTATIONS = {"reference": reference.scan, "xla": xla.scan}


def linear_scan(
    x_BTE: jax.Array,
    a_BTE: jax.Array,
    h0_BE: jax.Array | None = None,
    *,
    reverse: bool = False,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """All h_t = a_t h_{t-1} + x_t of a sequence, and the last of them.

    Args:
      x_BTE: inputs, float32 or bfloat16; T >= 1, any E.
      a_BTE: decays, of x's shape.
      h0_BE: state before the first token (zero by default), float32.
      reverse: run from the last token to the first; the last state is then that of token 0.
      implementation: a name of IMPLEMENTATIONS; None takes the best for the platform.

    Returns:
      h_BTE in x's dtype, accumulated in float32, and h_last_BE in float32.

    Raises:
      ValueError: shapes disagree or the implementation is unknown.
    """
    if x_BTE.ndim != 3 or x_BTE.shape != a_BTE.shape or x_BTE.shape[1] < 1:
        raise ValueError(
            f"linear_scan: x has shape {x_BTE.shape} and a {a_BTE.shape}; expected one shape "
            "[B, T, E] with T >= 1"
        )
    batch, _, width = x_BTE.shape
    if h0_BE is None:
        h0_BE = jnp.zeros((batch, width), jnp.float32)
    elif h0_BE.shape != (batch, width):
        raise ValueError(f"linear_scan: h0 has shape {h0_BE.shape}; expected {(batch, width)}")
    name = implementation or "xla"
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"linear_scan: implementation {name!r} is unknown; expected one of "
            + ", ".join(IMPLEMENTATIONS)
        )
    return _scan(x_BTE, a_BTE, h0_BE.astype(jnp.float32), reverse, name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scan(x_BTE, a_BTE, h0_BE, reverse: bool, name: str):
    h_BTE, h_last_BE = IMPLEMENTATIONS[name](x_BTE, a_BTE, h0_BE, reverse)
    return h_BTE.astype(x_BTE.dtype), h_last_BE


def _scan_fwd(x_BTE, a_BTE, h0_BE, reverse, name):
    h_BTE, h_last_BE = IMPLEMENTATIONS[name](x_BTE, a_BTE, h0_BE, reverse)
    x_like = jnp.zeros((0,), x_BTE.dtype)  # tells the backward pass the dtype of x
    return (h_BTE.astype(x_BTE.dtype), h_last_BE), (h_BTE, a_BTE, h0_BE, x_like)


def _scan_bwd(reverse, name, residuals, gradients):
    """dx_t = dh_t + a_{t+1} dx_{t+1}; da_t = dx_t h_{t-1}; dh0 = a_0 dx_0: the scan, reversed."""
    h_BTE, a_BTE, h0_BE, x_like = residuals
    dh_BTE, dh_last_BE = gradients
    one_B1E = jnp.ones_like(a_BTE[:, :1])
    if reverse:
        a_next_BTE = jnp.concatenate([one_B1E, a_BTE[:, :-1]], 1)
        h_previous_BTE = jnp.concatenate([h_BTE[:, 1:], h0_BE[:, None]], 1)
    else:
        a_next_BTE = jnp.concatenate([a_BTE[:, 1:], one_B1E], 1)
        h_previous_BTE = jnp.concatenate([h0_BE[:, None], h_BTE[:, :-1]], 1)
    dx_BTE, _ = IMPLEMENTATIONS[name](
        dh_BTE.astype(jnp.float32), a_next_BTE, dh_last_BE, not reverse
    )
    da_BTE = dx_BTE * h_previous_BTE
    first = -1 if reverse else 0
    dh0_BE = a_BTE[:, first].astype(jnp.float32) * dx_BTE[:, first]
    return dx_BTE.astype(x_like.dtype), da_BTE.astype(a_BTE.dtype), dh0_BE


_scan.defvjp(_scan_fwd, _scan_bwd)
