# SPDX-License-Identifier: Apache-2.0
"""Every implementation of the linear scan against its definition in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from kernels import tile
from kernels.linear_scan import linear_scan
from kernels.linear_scan import xla as xla_scan
from tests.kernels.compare import (
    IMPLEMENTATIONS,
    draw,
    goes_red,
    runnable,
    same,
    truth,
    value_and_gradients,
)

SHAPES = [
    (1, 1),
    pytest.param(1, 96, marks=pytest.mark.slow),
    (2, 96),
    pytest.param(2, 500, marks=pytest.mark.slow),
    (63, 1),
    pytest.param(63, 96, marks=pytest.mark.slow),
    pytest.param(257, 96, marks=pytest.mark.slow),
    (257, 500),
]


class Case(NamedTuple):
    time: int
    width: int
    reverse: bool = False
    batch: int = 2
    dtype: str = "float32"

    def arguments(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        shape = (self.batch, self.time, self.width)
        x = draw(0, *shape).astype(self.dtype)
        a = jax.nn.sigmoid(draw(1, *shape) + 2).astype(self.dtype)
        return x, a, draw(2, self.batch, self.width)

    def function(self, name: str):
        return functools.partial(linear_scan, reverse=self.reverse, implementation=name)


@functools.cache
def truth_of(case: Case):
    """The same for every implementation, and compiled once."""
    return truth(case.function("reference"), *case.arguments())


def check(implementation: str, case: Case) -> None:
    with runnable(implementation):
        got = value_and_gradients(case.function(implementation), *case.arguments())
    same(got, truth_of(case), 2e-5 if case.dtype == "float32" else 2e-2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("time", "width"), SHAPES)
def test_values_and_gradients(implementation, reverse, time, width):
    check(implementation, Case(time, width, reverse))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_wide_model(implementation):
    """E = 2,560 as in RecurrentGemma-2B, over tiles of time and of channels."""
    check(implementation, Case(257, 2560, batch=1))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_bfloat16(implementation, reverse):
    check(implementation, Case(63, 96, reverse, dtype="bfloat16"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_accumulates_in_float32(implementation):
    x = jnp.full((1, 600, 1), 1.0, jnp.bfloat16)
    with runnable(implementation):
        h, last = linear_scan(x, jnp.ones_like(x), implementation=implementation)
    assert h.dtype == jnp.bfloat16
    assert float(last[0, 0]) == 600  # bfloat16 itself stops at 256


@pytest.mark.usefixtures("traced_anew")
def test_it_goes_red_without_the_carry(monkeypatch):
    """From one register of the TPU kernel to the next; from one step of XLA's loop to the next."""
    right = tile.prefix

    def forgets(x, a, h, **options):
        return right(x, a, 0 * h, **options)

    monkeypatch.setattr(tile, "prefix", forgets)
    goes_red(check, "tpu", Case(63, 96))
    monkeypatch.undo()
    monkeypatch.setattr(xla_scan, "scan", lambda x, a, h0, reverse: (x, x[:, -1]))
    goes_red(check, "xla", Case(63, 96))


def test_it_refuses():
    x = jnp.zeros((1, 3, 4))
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4\) and a \(1, 2, 4\)"):
        linear_scan(x, x[:, :2])
    with pytest.raises(ValueError, match=r"h0 has shape \(4,\); expected \(1, 4\)"):
        linear_scan(x, x, jnp.zeros(4))
    with pytest.raises(ValueError, match="implementation 'cuda' is unknown; expected one of ref"):
        linear_scan(x, x, implementation="cuda")
    with pytest.raises(ValueError, match="x is int32; expected floating"):
        linear_scan(x.astype(jnp.int32), x)
    with pytest.raises(ValueError, match="of at least one row, token and channel"):
        linear_scan(x[..., :0], x[..., :0])


def test_a_name_never_falls_back():
    x = jnp.zeros((1, 3, 4))
    with pytest.raises(ValueError, match="Only interpret mode is supported on CPU backend"):
        linear_scan(x, x, implementation="tpu")
