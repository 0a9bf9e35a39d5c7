# SPDX-License-Identifier: Apache-2.0
"""Every implementation of the RG-LRU against its definition in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import tile
from kernels.rg_lru import gates, rg_lru
from tests.kernels.compare import (
    IMPLEMENTATIONS,
    draw,
    goes_red,
    runnable,
    same,
    truth,
    value_and_gradients,
)

RESETS = {
    "none": lambda b, t: np.zeros((b, t), bool),
    "first": lambda b, t: np.broadcast_to(np.arange(t)[None] == 0, (b, t)),
    "all": lambda b, t: np.ones((b, t), bool),
    "some": lambda b, t: np.random.default_rng(0).random((b, t)) < 0.2,
}
SHAPES = [
    (1, 1),
    pytest.param(1, 500, marks=pytest.mark.slow),
    (2, 96),
    (63, 1),
    pytest.param(63, 96, marks=pytest.mark.slow),
    pytest.param(257, 96, marks=pytest.mark.slow),
    (257, 500),
]


class Case(NamedTuple):
    """closed: gates near 0, where a is 1 and the square root is clipped."""

    time: int
    width: int
    resets: str = "some"
    lengths: tuple[int, ...] | None = None
    dtype: str = "float32"
    closed: bool = False

    def arguments(self) -> tuple[jax.Array, ...]:
        batch = 2 if self.lengths is None else len(self.lengths)
        x, input_gate, a_gate = (
            draw(i, batch, self.time, self.width).astype(self.dtype) for i in range(3)
        )
        if self.closed:
            a_gate -= jnp.linspace(0, 60, self.width, dtype=self.dtype)[None, None]
        return x, input_gate, a_gate, draw(4, self.width), draw(5, batch, self.width)

    def function(self, implementation: str):
        batch, time = 2 if self.lengths is None else len(self.lengths), self.time
        real = np.ones((batch, time), bool)
        if self.lengths is not None:
            real = np.arange(time)[None] < np.asarray(self.lengths)[:, None]
        reset = RESETS[self.resets](batch, time) & real

        def run(*args):
            h, last = rg_lru(
                *args,
                reset_BT=jnp.asarray(reset),
                real_BT=None if self.lengths is None else jnp.asarray(real),
                implementation=implementation,
            )
            return jnp.where(real[..., None], h, 0), last

        return run


@functools.cache
def truth_of(case: Case):
    """The same for every implementation, and compiled once."""
    return truth(case.function("reference"), *case.arguments())


def check(implementation: str, case: Case) -> None:
    args = case.arguments()
    with runnable(implementation):
        got = value_and_gradients(case.function(implementation), *args)
    same(got, truth_of(case), 2e-5 if case.dtype == "float32" else 3e-2)
    if case.lengths is not None:  # a row without tokens keeps its state, bit for bit
        empty = np.equal(case.lengths, 0)
        np.testing.assert_array_equal(got[0][1][empty], args[-1][empty])


PADDED = Case(40, 6, lengths=(0, 17, 40, 1))
CLOSED = Case(20, 31, closed=True)
BY_RESETS = {resets: Case(40, 130, resets) for resets in sorted(RESETS)}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("time", "width"), SHAPES)
def test_values_and_gradients(implementation, time, width):
    check(implementation, Case(time, width))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("resets", BY_RESETS)
def test_resets(implementation, resets):
    check(implementation, BY_RESETS[resets])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padding(implementation):
    check(implementation, PADDED)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16(implementation):
    check(implementation, Case(63, 96, lengths=(0, 63, 20), dtype="bfloat16"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_wide_model(implementation):
    """E = 2,560 as in RecurrentGemma-2B, over tiles of time and of channels."""
    check(implementation, Case(257, 2560, "first"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gates_that_close(implementation):
    check(implementation, CLOSED)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_square_roots_gradient_is_clipped(implementation):
    """Where a is 1 to rounding, d sqrt(1 - a^2) is 1000, not infinity (RecurrentGemma paper)."""
    x, gate = jnp.ones((1, 1, 1)), jnp.full((1, 1, 1), -60.0)  # r = 1e-26: a = 1

    def output(a_gate):
        return rg_lru(x, x, a_gate, jnp.ones(1), implementation=implementation)[0].sum()

    with runnable(implementation):
        gradient = jax.grad(output)(gate)
    slope = -2 * gates.MAX_SQRT_GRADIENT  # d multiplier / d log a at a = 1
    want = jax.nn.sigmoid(1.0) * slope * -8 * np.log1p(np.e) * np.exp(-60.0)
    assert float(gradient[0, 0, 0]) == pytest.approx(float(want), rel=1e-4)


def without_reset(monkeypatch):
    right = gates.scan_decay
    monkeypatch.setattr(
        gates, "scan_decay", lambda a, d, reset, padding: right(a, d, reset & False, padding)
    )


def without_padding(monkeypatch):
    right = gates.scan_decay
    monkeypatch.setattr(gates, "scan_decay", lambda a, d, reset, _: right(a, d, reset, None))


def without_clip(monkeypatch):
    monkeypatch.setattr(gates, "sqrt_gradient", lambda squared: 0.5 * jax.lax.rsqrt(squared))


def without_carry(monkeypatch):
    right = tile.prefix
    monkeypatch.setattr(tile, "prefix", lambda x, a, h, **options: right(x, a, 0 * h, **options))


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize(
    ("broken", "implementation", "case"),
    [
        *[(without_reset, name, BY_RESETS["some"]) for name in IMPLEMENTATIONS],
        *[(without_padding, name, PADDED) for name in IMPLEMENTATIONS],
        *[(without_clip, name, CLOSED) for name in IMPLEMENTATIONS],
        (without_carry, "tpu", BY_RESETS["none"]),
    ],
)
def test_it_goes_red(broken, implementation, case, monkeypatch):
    """Cases that the tests above see pass."""
    broken(monkeypatch)
    goes_red(check, implementation, case)


def test_it_refuses():
    x = jnp.zeros((1, 3, 4))
    with pytest.raises(ValueError, match=r"its gates \(1, 2, 4\) and \(1, 3, 4\)"):
        rg_lru(x, x[:, :2], x, jnp.ones(4))
    with pytest.raises(ValueError, match=r"a_param has shape \(3,\); expected \(4,\)"):
        rg_lru(x, x, x, jnp.ones(3))
    with pytest.raises(ValueError, match=r"reset has shape \(3,\); expected \(1, 3\)"):
        rg_lru(x, x, x, jnp.ones(4), reset_BT=jnp.zeros(3, bool))
    with pytest.raises(ValueError, match="implementation 'triton' is unknown"):
        rg_lru(x, x, x, jnp.ones(4), implementation="triton")
    with pytest.raises(ValueError, match="real is int32; expected bool"):
        rg_lru(x, x, x, jnp.ones(4), real_BT=jnp.ones((1, 3), jnp.int32))
    with pytest.raises(ValueError, match="x is int32; expected floating"):
        rg_lru(x.astype(jnp.int32), x, x, jnp.ones(4))
    with pytest.raises(ValueError, match="of at least one row, token and channel"):
        rg_lru(x[:0], x[:0], x[:0], jnp.ones(4))
    with pytest.raises(ValueError, match="h0 is a float; expected an array"):
        rg_lru(x, x, x, jnp.ones(4), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_what_lies_at_padding_and_before_a_document_is_never_read(implementation):
    """NaN there is in no output and in no gradient."""
    x, real = draw(0, 2, 20, 6), jnp.arange(20)[None] < jnp.asarray([[20], [13]])
    junk = jnp.where(real[..., None], x, jnp.nan)
    reset = jnp.zeros((2, 20), bool).at[:, 0].set(True)

    def op(x, a_param, h0):
        marked = functools.partial(rg_lru, reset_BT=reset, real_BT=real)
        h, last = marked(x, x, x, a_param, h0, implementation=implementation)
        return jnp.where(real[..., None], h, 0), last

    with runnable(implementation):
        got = value_and_gradients(op, junk, draw(1, 6), jnp.full((2, 6), jnp.nan))
        want = value_and_gradients(op, jnp.nan_to_num(junk), draw(1, 6), jnp.zeros((2, 6)))
    same(got, want)
