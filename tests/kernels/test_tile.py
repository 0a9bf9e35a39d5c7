# SPDX-License-Identifier: Apache-2.0
"""The TPU kernels' tiles, and the recurrence in registers against a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from kernels import tile
from tests.kernels.compare import draw, same


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 15, 500), (3, 257, 513), (1, 8192, 2560)])
def test_the_grid_covers_the_sequence(shape):
    (batch, channels, times), tile_t, tile_e = tile.grid(*shape)
    assert batch == shape[0]
    assert (times - 1) * tile_t < shape[1] <= times * tile_t
    assert (channels - 1) * tile_e < shape[2] <= channels * tile_e
    assert tile_t % tile.ROWS == 0
    assert tile_t <= tile.TIME
    assert tile_e <= tile.CHANNELS


def interpreted(function, *arrays, like):
    """A function of registers, inside a kernel that Pallas interprets."""

    def kernel(*refs):
        inputs, outputs = refs[: len(arrays)], refs[len(arrays) :]
        for ref, value in zip(outputs, function(*(ref[...] for ref in inputs)), strict=True):
            ref[...] = value

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like]
    return pl.pallas_call(kernel, out_shape=shapes, interpret=True)(*arrays)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_prefix_and_its_effect(reverse):
    x, a, h = draw(0, tile.ROWS, 5), jax.nn.sigmoid(draw(1, tile.ROWS, 5)), draw(2, 1, 5)
    want, state = np.zeros_like(x), np.asarray(h)[0]
    rows = range(tile.ROWS)
    for row in reversed(rows) if reverse else rows:
        state = np.asarray(a)[row] * state + np.asarray(x)[row]
        want[row] = state
    prefix = functools.partial(tile.prefix, reverse=reverse)
    same(interpreted(prefix, x, a, h, like=[x, h]), (want, state[None]))
    effect = functools.partial(tile.effect, reverse=reverse)
    product, added = interpreted(effect, x, a, jnp.ones_like(h), 0 * h, like=[h, h])
    same(product * h + added, state[None])


@pytest.mark.parametrize("reverse", [False, True])
def test_the_row_before(reverse):
    x, edge = draw(0, tile.ROWS, 5), draw(1, 1, 5)
    shift = functools.partial(tile.shift, reverse=reverse)
    (shifted,) = interpreted(lambda *args: [shift(*args)], x, edge, like=[x])
    want = jnp.concatenate([x[1:], edge] if reverse else [edge, x[:-1]])
    np.testing.assert_array_equal(shifted, want)
