# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU of one device's tokens, with its gradients, by any implementation."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kernels import platform
from kernels.kept import RECURRENCE
from kernels.rg_lru import gates, gpu, reference, tpu, xla

IMPLEMENTATIONS = {"reference": reference, "xla": xla, "tpu": tpu, "gpu": gpu}
BEST = {"tpu": "tpu"}  # by platform; "xla" elsewhere


def run(name: str | None, part: str, *args):
    """A function of the implementation's module."""
    return platform.run(name, IMPLEMENTATIONS, BEST, operator.attrgetter(part), *args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def rg_lru(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, name):
    """(h_BTE, h_last_BE), as api.rg_lru."""
    return fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, name)[0]


def fwd(x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT, name):
    """(outputs, residuals)."""
    args = (x, input_gate, a_gate, a_param_E, h0_BE, reset_BT, real_BT)
    h_BTE, h_last_BE = run(name, "forward", *args)
    h_BTE = checkpoint_name(h_BTE, RECURRENCE)
    return (h_BTE, h_last_BE), (*args, h_BTE)


def bwd(name, residuals, gradients):
    """Gradients of the seven arguments."""
    a_param_E = residuals[3]
    dx, di, dr, ddecay_E, dh0_BE = run(name, "backward", *residuals, *gradients)
    d_a_param_E = -gates.C * jax.nn.sigmoid(a_param_E.astype(jnp.float32)) * ddecay_E
    return dx, di, dr, d_a_param_E.astype(a_param_E.dtype), dh0_BE, None, None


rg_lru.defvjp(fwd, bwd)
