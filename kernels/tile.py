# SPDX-License-Identifier: Apache-2.0
"""What the Pallas TPU kernels share: blocks of time and channels, and the recurrence in registers.

A grid step owns a tile of [time, channels]; time is the last grid axis, so that the state is
carried from one tile to the next in a block that stays on chip. Inside a tile a loop takes ROWS
tokens at a time and keeps them in registers.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

ROWS = 16  # tokens a loop step: one register of bfloat16, two of float32
TIME, CHANNELS = 256, 512  # the largest tile
GROUP = 8  # sublanes of a float32 register


def grid(batch: int, time: int, width: int) -> tuple[tuple[int, int, int], int, int]:
    """(grid over batch, channels and time), tile of time, tile of channels.

    The last tile of an axis may reach over its end: rows there are masked, channels never meet.
    """
    tile_t = min(TIME, pl.cdiv(time, ROWS) * ROWS)
    tile_e = width if width <= CHANNELS else CHANNELS
    return (batch, pl.cdiv(width, tile_e), pl.cdiv(time, tile_t)), tile_t, tile_e


def sequential() -> pltpu.CompilerParams:
    """Time is carried; rows and channels are independent."""
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def out(shape: tuple[int, ...], dtype, like: jax.Array) -> jax.ShapeDtypeStruct:
    """An output, which under shard_map differs over the same mesh axes as `like`."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).mat)


def prefix(
    x_RE: jax.Array, a_RE: jax.Array, h_1E: jax.Array, *, reverse: bool = False
) -> tuple[jax.Array, jax.Array]:
    """h_t = a_t h_{t-1} + x_t of R rows in float32, and the last h, given the one before.

    Within a register of 8 rows in three doubling steps (shift by 1, 2, 4); from register to
    register in sequence, one multiply-add each.
    """
    rows, width = x_RE.shape
    x_GSE = x_RE.reshape(rows // GROUP, GROUP, width)
    a_GSE = a_RE.reshape(rows // GROUP, GROUP, width)
    row_GSE = jax.lax.broadcasted_iota(jnp.int32, x_GSE.shape, 1)
    for shift in (1, 2, 4):
        inside = row_GSE < GROUP - shift if reverse else row_GSE >= shift
        by = GROUP - shift if reverse else shift
        x_GSE = x_GSE + a_GSE * jnp.where(inside, pltpu.roll(x_GSE, by, 1), 0.0)
        a_GSE = a_GSE * jnp.where(inside, pltpu.roll(a_GSE, by, 1), 1.0)
    groups = range(rows // GROUP)
    h_SE: list[jax.Array] = [x_GSE[0]] * len(groups)
    for g in reversed(groups) if reverse else groups:
        h_SE[g] = x_GSE[g] + a_GSE[g] * h_1E
        h_1E = h_SE[g][:1] if reverse else h_SE[g][GROUP - 1 :]
    return jnp.concatenate(h_SE, 0), h_1E


def effect(
    x_RE: jax.Array, a_RE: jax.Array, a_1E: jax.Array, b_1E: jax.Array, *, reverse: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(a, b) of what comes before and R rows more, which turn h into a h + b."""
    _, b_1E = prefix(x_RE, a_RE, b_1E, reverse=reverse)
    _, a_1E = prefix(jnp.zeros_like(x_RE), a_RE, a_1E, reverse=reverse)
    return a_1E, b_1E


def rows_of(tile_index: jax.Array, tile_t: int, group: jax.Array) -> jax.Array:
    """[ROWS, 1]: the token each row of a loop step is."""
    first = tile_index * tile_t + group * ROWS
    return first + jax.lax.broadcasted_iota(jnp.int32, (ROWS, 1), 0)


def shift(x_RE: jax.Array, edge_1E: jax.Array, *, reverse: bool = False) -> jax.Array:
    """x_{t-1} of every row, `edge` for the first one; reversed x_{t+1}, `edge` for the last one."""
    rows = x_RE.shape[0]
    row_RE = jax.lax.broadcasted_iota(jnp.int32, x_RE.shape, 0)
    if reverse:
        return jnp.where(row_RE == rows - 1, edge_1E, pltpu.roll(x_RE, rows - 1, 0))
    return jnp.where(row_RE == 0, edge_1E, pltpu.roll(x_RE, 1, 0))
