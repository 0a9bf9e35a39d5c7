# SPDX-License-Identifier: Apache-2.0
"""The linear scan h_t = a_t h_{t-1} + x_t with its gradients (Griffin paper, section 4.2)."""

import functools

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.linear_scan import gpu, reference, tpu, xla

IMPLEMENTATIONS = {"reference": reference, "xla": xla, "tpu": tpu, "gpu": gpu}
BEST = {"tpu": "tpu"}  # by platform; "xla" elsewhere


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
      ValueError: shapes disagree, a dtype is none of those above, or the implementation is unknown.
    """
    check(x_BTE, a_BTE, h0_BE, implementation)
    if h0_BE is None:
        h0_BE = jnp.zeros((x_BTE.shape[0], x_BTE.shape[2]), jnp.float32)
    if implementation is None and x_BTE.shape[1] == 1:
        implementation = "xla"  # one token is no loop anywhere
    if implementation == "reference":
        return reference.scan(x_BTE, a_BTE, h0_BE, reverse)  # with the gradients that JAX derives
    return _scan(x_BTE, a_BTE, h0_BE.astype(jnp.float32), reverse, implementation)


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
    platform.check("linear_scan", implementation, IMPLEMENTATIONS)


def effect(name: str | None, reverse: bool, x_BTE, a_BTE) -> tuple[jax.Array, jax.Array]:
    """(a, b) of a sequence that turns the state h into a h + b; float32 [B, E]."""
    part = lambda module: functools.partial(module.effect, reverse=reverse)  # noqa: E731
    return platform.run(name, IMPLEMENTATIONS, BEST, part, x_BTE, a_BTE)


def _run(name: str | None, reverse: bool, *args):
    part = lambda module: functools.partial(module.scan, reverse=reverse)  # noqa: E731
    return platform.run(name, IMPLEMENTATIONS, BEST, part, *args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scan(x_BTE, a_BTE, h0_BE, reverse: bool, name: str | None):
    return _run(name, reverse, x_BTE, a_BTE, h0_BE)


def scan_fwd(x_BTE, a_BTE, h0_BE, reverse, name):
    h_BTE, h_last_BE = _run(name, reverse, x_BTE, a_BTE, h0_BE)
    x_like = jnp.zeros((0,), x_BTE.dtype)  # tells the backward pass the dtype of x
    return (h_BTE, h_last_BE), (h_BTE, a_BTE, h0_BE, x_like)


def scan_bwd(reverse, name, residuals, gradients):
    """dx_t = dh_t + a_{t+1} dx_{t+1}; da_t = dx_t h_{t-1}; dh0 = a_0 dx_0: the scan, reversed."""
    h_BTE, a_BTE, h0_BE, x_like = residuals
    h_BTE = h_BTE.astype(jnp.float32)  # as h0
    dh_BTE, dh_last_BE = gradients
    one_B1E = jnp.ones_like(a_BTE[:, :1])
    if reverse:
        a_next_BTE = jnp.concatenate([one_B1E, a_BTE[:, :-1]], 1)
        h_previous_BTE = jnp.concatenate([h_BTE[:, 1:], h0_BE[:, None]], 1)
    else:
        a_next_BTE = jnp.concatenate([a_BTE[:, 1:], one_B1E], 1)
        h_previous_BTE = jnp.concatenate([h0_BE[:, None], h_BTE[:, :-1]], 1)
    dx_BTE, _ = _run(name, not reverse, dh_BTE.astype(jnp.float32), a_next_BTE, dh_last_BE)
    da_BTE = dx_BTE * h_previous_BTE
    first = -1 if reverse else 0
    dh0_BE = a_BTE[:, first].astype(jnp.float32) * dx_BTE[:, first]
    return dx_BTE.astype(x_like.dtype), da_BTE.astype(a_BTE.dtype), dh0_BE


_scan.defvjp(scan_fwd, scan_bwd)
