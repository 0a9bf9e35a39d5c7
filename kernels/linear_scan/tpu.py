# SPDX-License-Identifier: Apache-2.0
"""The linear scan for TPUs: one Pallas kernel that reads x and a once and writes h once."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from kernels import tile


def _kernel(x_ref, a_ref, h0_ref, h_ref, last_ref, *, time: int, tile_t: int, reverse: bool):
    """last_ref carries the state from tile to tile: its block does not move with time."""
    step = pl.program_id(2)
    index = pl.num_programs(2) - 1 - step if reverse else step

    @pl.when(step == 0)
    def _():
        last_ref[...] = h0_ref[...]

    def body(i, h_1E):
        group = tile_t // tile.ROWS - 1 - i if reverse else i
        rows = pl.ds(pl.multiple_of(group * tile.ROWS, tile.ROWS), tile.ROWS)
        inside_R1 = tile.rows_of(index, tile_t, group) < time
        x_RE = jnp.where(inside_R1, x_ref[0, rows].astype(jnp.float32), 0.0)
        a_RE = jnp.where(inside_R1, a_ref[0, rows].astype(jnp.float32), 1.0)
        h_RE, h_1E = tile.prefix(x_RE, a_RE, h_1E, reverse=reverse)
        h_ref[0, rows] = h_RE.astype(h_ref.dtype)
        return h_1E

    last_ref[0] = jax.lax.fori_loop(0, tile_t // tile.ROWS, body, last_ref[0])


def _effect_kernel(x_ref, a_ref, a_out_ref, b_out_ref, *, time: int, tile_t: int, reverse: bool):
    """The outputs carry (a, b) from tile to tile."""
    step = pl.program_id(2)
    index = pl.num_programs(2) - 1 - step if reverse else step

    @pl.when(step == 0)
    def _():
        a_out_ref[...] = jnp.ones_like(a_out_ref)
        b_out_ref[...] = jnp.zeros_like(b_out_ref)

    def body(i, effect):
        group = tile_t // tile.ROWS - 1 - i if reverse else i
        rows = pl.ds(pl.multiple_of(group * tile.ROWS, tile.ROWS), tile.ROWS)
        inside_R1 = tile.rows_of(index, tile_t, group) < time
        x_RE = jnp.where(inside_R1, x_ref[0, rows].astype(jnp.float32), 0.0)
        a_RE = jnp.where(inside_R1, a_ref[0, rows].astype(jnp.float32), 1.0)
        return tile.effect(x_RE, a_RE, *effect, reverse=reverse)

    effect = jax.lax.fori_loop(0, tile_t // tile.ROWS, body, (a_out_ref[0], b_out_ref[0]))
    a_out_ref[0], b_out_ref[0] = effect


def effect(
    x_BTE: jax.Array, a_BTE: jax.Array, reverse: bool, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """See vjp.effect: reads x and a once."""
    batch, time, width = x_BTE.shape
    grid, tile_t, tile_e = tile.grid(batch, time, width)
    stream = pl.BlockSpec(
        (1, tile_t, tile_e), lambda b, e, t: (b, grid[2] - 1 - t if reverse else t, e)
    )
    state = pl.BlockSpec((1, 1, tile_e), lambda b, e, t: (b, 0, e))
    a_B1E, b_B1E = pl.pallas_call(
        functools.partial(_effect_kernel, time=time, tile_t=tile_t, reverse=reverse),
        grid=grid,
        in_specs=[stream, stream],
        out_specs=[state, state],
        out_shape=[tile.out((batch, 1, width), jnp.float32, x_BTE)] * 2,
        compiler_params=tile.sequential(),
        interpret=interpret,
        name="linear_scan_effect",
    )(x_BTE, a_BTE)
    return a_B1E[:, 0], b_B1E[:, 0]


def scan(
    x_BTE: jax.Array, a_BTE: jax.Array, h0_BE: jax.Array, reverse: bool, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """See api.linear_scan; h in x's dtype."""
    batch, time, width = x_BTE.shape
    grid, tile_t, tile_e = tile.grid(batch, time, width)

    def at(b, e, t):
        return b, grid[2] - 1 - t if reverse else t, e

    stream = pl.BlockSpec((1, tile_t, tile_e), at)
    state = pl.BlockSpec((1, 1, tile_e), lambda b, e, t: (b, 0, e))
    h_BTE, last_B1E = pl.pallas_call(
        functools.partial(_kernel, time=time, tile_t=tile_t, reverse=reverse),
        grid=grid,
        in_specs=[stream, stream, state],
        out_specs=[stream, state],
        out_shape=[
            tile.out(x_BTE.shape, x_BTE.dtype, x_BTE),
            tile.out((batch, 1, width), jnp.float32, x_BTE),
        ],
        compiler_params=tile.sequential(),
        interpret=interpret,
        name="linear_scan",
    )(x_BTE, a_BTE, h0_BE[:, None])
    return h_BTE, last_B1E[:, 0]
