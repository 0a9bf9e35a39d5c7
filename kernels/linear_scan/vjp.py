# SPDX-License-Identifier: Apache-2.0
"""The linear scan of one device's tokens, with its gradients, by any implementation."""

import functools

import jax
import jax.numpy as jnp

from kernels import platform
from kernels.linear_scan import gpu, reference, tpu, xla

IMPLEMENTATIONS = {"reference": reference, "xla": xla, "tpu": tpu, "gpu": gpu}
BEST = {"tpu": "tpu"}  # by platform; "xla" elsewhere


def effect(name: str | None, reverse: bool, x_BTE, a_BTE) -> tuple[jax.Array, jax.Array]:
    """(a, b) of a sequence that turns the state h into a h + b; float32 [B, E]."""
    part = lambda module: functools.partial(module.effect, reverse=reverse)  # noqa: E731
    return platform.run(name, IMPLEMENTATIONS, BEST, part, x_BTE, a_BTE)


def _run(name: str | None, reverse: bool, *args):
    part = lambda module: functools.partial(module.scan, reverse=reverse)  # noqa: E731
    return platform.run(name, IMPLEMENTATIONS, BEST, part, *args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def scan(x_BTE, a_BTE, h0_BE, reverse: bool, name: str | None):
    """(h_BTE, h_last_BE), as api.linear_scan."""
    return _run(name, reverse, x_BTE, a_BTE, h0_BE)


def fwd(x_BTE, a_BTE, h0_BE, reverse, name):
    """(outputs, residuals)."""
    h_BTE, h_last_BE = _run(name, reverse, x_BTE, a_BTE, h0_BE)
    x_like = jnp.zeros((0,), x_BTE.dtype)  # tells the backward pass the dtype of x
    return (h_BTE, h_last_BE), (h_BTE, a_BTE, h0_BE, x_like)


def bwd(reverse, name, residuals, gradients):
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


scan.defvjp(fwd, bwd)
