# SPDX-License-Identifier: Apache-2.0
"""An op against its reference in float64, outputs and gradients of every input."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.drawn import normal

IMPLEMENTATIONS = ("xla", "tpu")


def draw(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    return scale * normal(seed, shape)


def runnable(implementation: str | None):
    """A context in which the implementation runs on a CPU: TPU kernels are interpreted."""
    if implementation == "tpu" and jax.default_backend() != "tpu":
        return pltpu.force_tpu_interpret_mode()
    return contextlib.nullcontext()


def value_and_gradients(function, *args):
    """Outputs, and gradients of every argument for given gradients of every output."""

    @jax.jit
    def run(*args):
        out, pullback = jax.vjp(function, *args)
        leaves, structure = jax.tree.flatten(out)
        given = [
            jnp.asarray(np.random.default_rng(i).standard_normal(x.shape), x.dtype)
            for i, x in enumerate(leaves)
        ]
        return out, pullback(jax.tree.unflatten(structure, given))

    return jax.tree.map(np.asarray, run(*args))


def truth(function, *args):
    """value_and_gradients, computed in float64."""
    args = [np.asarray(x, np.float64) for x in args]
    with jax.enable_x64(True):
        return value_and_gradients(function, *[jnp.asarray(x) for x in args])


def same(got, want, tolerance: float = 2e-5) -> None:
    """Every array agrees to `tolerance` of its largest element, or of 1."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


def goes_red(check, *args, **options) -> None:
    """The check fails."""
    with pytest.raises(AssertionError):
        check(*args, **options)
