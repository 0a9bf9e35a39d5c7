# SPDX-License-Identifier: Apache-2.0
"""The linear scan and the RG-LRU against their definitions, with all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.linear_scan import linear_scan
from kernels.rg_lru import rg_lru


def draw(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    return scale * jax.random.normal(jax.random.key(seed), shape)


def same(got, want, tolerance: float = 2e-5) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


def value_and_gradients(function, *args):
    """Outputs, and gradients of every argument for random gradients of every output."""

    @jax.jit
    def run(*args):
        out, pullback = jax.vjp(function, *args)
        leaves, structure = jax.tree.flatten(out)
        given = [draw(100 + i, *x.shape).astype(x.dtype) for i, x in enumerate(leaves)]
        return out, pullback(jax.tree.unflatten(structure, given))

    return run(*args)


def by_definition(x, a, h0, reverse: bool):
    steps, h = [], h0
    order = range(x.shape[1])
    for t in reversed(order) if reverse else order:
        h = a[:, t] * h + x[:, t]
        steps.append(h)
    return jnp.stack(steps[::-1] if reverse else steps, 1), h


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("time", "width"), [(1, 5), (2, 1), (17, 96)])
def test_linear_scan(implementation, reverse, time, width):
    x, a = draw(0, 2, time, width), jax.nn.sigmoid(draw(1, 2, time, width))
    h0 = draw(2, 2, width)
    got = value_and_gradients(
        lambda x, a, h0: linear_scan(x, a, h0, reverse=reverse, implementation=implementation),
        *(x, a, h0),
    )
    same(got, value_and_gradients(lambda *args: by_definition(*args, reverse=reverse), x, a, h0))


def test_linear_scan_in_bfloat16_accumulates_in_float32():
    x = jnp.full((1, 600, 1), 1.0, jnp.bfloat16)
    h, last = linear_scan(x, jnp.ones_like(x))
    assert h.dtype == jnp.bfloat16
    assert float(last[0, 0]) == 600  # bfloat16 itself stops at 256


def test_linear_scan_refuses():
    x = jnp.zeros((1, 3, 4))
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4\) and a \(1, 2, 4\)"):
        linear_scan(x, x[:, :2])
    with pytest.raises(ValueError, match=r"h0 has shape \(4,\); expected \(1, 4\)"):
        linear_scan(x, x, jnp.zeros(4))
    with pytest.raises(ValueError, match="implementation 'cuda' is unknown; expected one of ref"):
        linear_scan(x, x, implementation="cuda")


def rg_lru_by_definition(x, input_gate, a_gate, a_param, h0, reset, real):
    log_a = -8 * jax.nn.sigmoid(a_gate) * jax.nn.softplus(a_param)[None, None]
    a = jnp.where(reset[..., None], 0, jnp.exp(log_a))
    multiplier = jnp.where(reset[..., None], 1, jnp.sqrt(1 - jnp.exp(2 * log_a)))
    gated = multiplier * jax.nn.sigmoid(input_gate) * x
    a = jnp.where(real[..., None], a, 1)
    return by_definition(jnp.where(real[..., None], gated, 0), a, h0, False)


RESETS = {
    "none": np.zeros((2, 9), bool),
    "first": np.arange(9)[None] == np.zeros((2, 1)),
    "all": np.ones((2, 9), bool),
    "some": np.array([[0, 0, 1, 1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1, 0, 0, 1]], bool),
}


@pytest.mark.parametrize("resets", sorted(RESETS))
@pytest.mark.parametrize("padded", [False, True])
def test_rg_lru(resets, padded):
    arrays = [draw(i, 2, 9, 6) for i in range(3)]
    a_param, h0 = draw(4, 6), draw(5, 2, 6)
    reset = jnp.asarray(RESETS[resets])
    lengths = np.array([0, 5]) if padded else np.array([9, 9])
    real = jnp.asarray(np.arange(9)[None] < lengths[:, None])
    reset &= real

    def ours(*args):
        h, last = rg_lru(*args, reset_BT=reset, real_BT=real if padded else None)
        return jnp.where(real[..., None], h, 0), last

    def truth(*args):
        h, last = rg_lru_by_definition(*args, reset=reset, real=real)
        return jnp.where(real[..., None], h, 0), last

    got = value_and_gradients(ours, *arrays, a_param, h0)
    same(got, value_and_gradients(truth, *arrays, a_param, h0))
    if padded:  # a row without tokens keeps its state, bit for bit
        np.testing.assert_array_equal(got[0][1][0], h0[0])


def test_the_square_roots_gradient_is_clipped():
    """Where a is 1 to rounding, d sqrt(1 - a^2) is 1000, not infinity (RecurrentGemma paper)."""
    x, gate = jnp.ones((1, 1, 1)), jnp.full((1, 1, 1), -60.0)  # r = 1e-26: a = 1
    gradient = jax.grad(lambda a_gate: rg_lru(x, x, a_gate, jnp.ones(1))[0].sum())(gate)
    assert np.isfinite(gradient).all()
    floor = 1 / (4 * 1000.0**2)
    r = np.exp(-60.0)
    slope = -1 / np.sqrt(floor)  # d multiplier / d log a at a = 1
    want = jax.nn.sigmoid(1.0) * slope * -8 * np.log1p(np.e) * r
    assert float(gradient[0, 0, 0]) == pytest.approx(float(want), rel=1e-4)
