# SPDX-License-Identifier: Apache-2.0
"""The RG-LRU for TPUs: gates, resets, padding and recurrence in one Pallas kernel each way.

Bytes of HBM for each token and channel, with S = 2 (bfloat16) or 4 (float32) bytes a value:

| | reads | writes | bytes | bfloat16 | float32 |
|---|---|---|---|---|---|
| forward | x, input gate, a gate | h | 4 S | 8 | 16 |
| the gates apart | | | 4 S + 16 | 24 | 32 |
| backward | x, input gate, a gate, h, dh | dx, d input gate, d a gate | 8 S | 16 | 32 |
| the gates apart | | | 9 S + 24 or 16 | 42 | 52 |

Apart, the scan's two inputs are written and read again in float32; backward so are a, dh where it
is bfloat16, and the scan's result, and the a gate is read twice.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from kernels import tile
from kernels.marks import PADDING, RESET, marks
from kernels.rg_lru import gates


def _rows(group: jax.Array):
    return pl.ds(pl.multiple_of(group * tile.ROWS, tile.ROWS), tile.ROWS)


def _forward_kernel(
    x_ref, i_ref, r_ref, flag_ref, decay_ref, h0_ref, *outs, time: int, tile_t: int
):
    """outs: h, and the last state, whose block carries it from tile to tile."""
    h_ref, last_ref = outs
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _():
        last_ref[...] = h0_ref[...]

    def body(group, h_1E):
        rows = _rows(group)
        flag_R1 = flag_ref[0, rows]
        past_R1 = tile.rows_of(step, tile_t, group) >= time
        x_RE, a_RE = gates.scan_inputs(
            *(x_ref[0, rows], i_ref[0, rows], r_ref[0, rows], decay_ref[...]),
            *(flag_R1 == RESET, past_R1 | (flag_R1 == PADDING)),
        )
        h_RE, h_1E = tile.prefix(x_RE, a_RE, h_1E)
        h_ref[0, rows] = h_RE.astype(h_ref.dtype)
        return h_1E

    last_ref[0] = jax.lax.fori_loop(0, tile_t // tile.ROWS, body, last_ref[0])


def _specs(batch: int, time: int, width: int, *, reverse: bool):
    """(grid, tile of time, BlockSpecs by what they are for)."""
    grid, tile_t, tile_e = tile.grid(batch, time, width)
    last = grid[2] - 1

    def when(t):
        return last - t if reverse else t

    before = tile_t // tile.ROWS  # loop steps in a tile
    return (
        grid,
        tile_t,
        {
            "stream": pl.BlockSpec((1, tile_t, tile_e), lambda b, e, t: (b, when(t), e)),
            "flag": pl.BlockSpec((1, tile_t, 1), lambda b, e, t: (b, when(t), 0)),
            "channel": pl.BlockSpec((1, tile_e), lambda b, e, t: (0, e)),
            "state": pl.BlockSpec((1, 1, tile_e), lambda b, e, t: (b, 0, e)),
            # the rows just before the tile: of them only the last one is used
            "before": pl.BlockSpec(
                (1, tile.ROWS, tile_e), lambda b, e, t: (b, jnp.maximum(when(t) * before - 1, 0), e)
            ),
        },
    )


def forward(
    x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, h0_BE, reset_BT, real_BT, *, interpret=False
) -> tuple[jax.Array, jax.Array]:
    """(h_BTE in x's dtype, last h_BE in float32)."""
    batch, time, width = x_BTE.shape
    grid, tile_t, spec = _specs(batch, time, width, reverse=False)
    h_BTE, last_B1E = pl.pallas_call(
        functools.partial(_forward_kernel, time=time, tile_t=tile_t),
        grid=grid,
        in_specs=[*[spec["stream"]] * 3, spec["flag"], spec["channel"], spec["state"]],
        out_specs=[spec["stream"], spec["state"]],
        out_shape=[
            tile.out(x_BTE.shape, x_BTE.dtype, x_BTE),
            tile.out((batch, 1, width), jnp.float32, x_BTE),
        ],
        compiler_params=tile.sequential(),
        interpret=interpret,
        name="rg_lru_forward",
    )(
        *(x_BTE, input_gate_BTE, a_gate_BTE, marks(reset_BT, real_BT)[..., None]),
        *(gates.decay(a_param_E)[None], h0_BE[:, None]),
    )
    return h_BTE, last_B1E[:, 0]


def _backward_kernel(refs, outs, *, time: int, tile_t: int):
    """From the last token to the first. The block of dh0 carries a_{t+1} times the gradient of
    h_{t+1}, that of d_decay its sum over the tokens."""
    x_ref, i_ref, r_ref, h_ref, before_ref, dh_ref, flag_ref, decay_ref, h0_ref, dlast_ref = refs
    dx_ref, di_ref, dr_ref, ddecay_ref, dh0_ref = outs
    step = pl.program_id(2)
    index = pl.num_programs(2) - 1 - step

    @pl.when(step == 0)
    def _():
        dh0_ref[...] = dlast_ref[...]
        ddecay_ref[...] = jnp.zeros_like(ddecay_ref)

    before_1E = before_ref[0][tile.ROWS - 1 :].astype(jnp.float32)
    before_1E = jnp.where(index == 0, h0_ref[0], before_1E)

    def body(i, carry):
        c_1E, ddecay_1E = carry
        group = tile_t // tile.ROWS - 1 - i
        rows = _rows(group)
        flag_R1 = flag_ref[0, rows]
        past_R1 = tile.rows_of(index, tile_t, group) >= time
        token = (x_ref[0, rows], i_ref[0, rows], r_ref[0, rows], decay_ref[...])
        masks = (flag_R1 == RESET, past_R1 | (flag_R1 == PADDING))
        a_RE = gates.scan_decay(*token[2:], *masks)
        dh_RE = jnp.where(past_R1, 0.0, dh_ref[0, rows].astype(jnp.float32))
        c_RE, c_next_1E = tile.prefix(a_RE * dh_RE, a_RE, c_1E, reverse=True)
        g_RE = dh_RE + tile.shift(c_RE, c_1E, reverse=True)
        earlier = h_ref[0, _rows(jnp.maximum(group - 1, 0))][tile.ROWS - 1 :].astype(jnp.float32)
        h_before_RE = tile.shift(
            h_ref[0, rows].astype(jnp.float32), jnp.where(group == 0, before_1E, earlier)
        )
        dx_RE, di_RE, dr_RE, ddecay_RE = gates.gradients(g_RE, h_before_RE, *token, *masks)
        dx_ref[0, rows] = dx_RE.astype(dx_ref.dtype)
        di_ref[0, rows] = di_RE.astype(di_ref.dtype)
        dr_ref[0, rows] = dr_RE.astype(dr_ref.dtype)
        ddecay_RE = jnp.where(past_R1, 0.0, ddecay_RE)  # what lies there may be NaN
        return c_next_1E, ddecay_1E + jnp.sum(ddecay_RE, 0, keepdims=True)

    start = (dh0_ref[0], ddecay_ref[0])
    dh0_ref[0], ddecay_ref[0] = jax.lax.fori_loop(0, tile_t // tile.ROWS, body, start)


def backward(
    x_BTE,
    input_gate_BTE,
    a_gate_BTE,
    a_param_E,
    h0_BE,
    reset_BT,
    real_BT,
    h_BTE,
    dh_BTE,
    dlast_BE,
    *,
    interpret=False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Gradients of x, input gate, a gate, decay [E] and h0, given h and the gradients of both
    outputs."""
    batch, time, width = x_BTE.shape
    grid, tile_t, spec = _specs(batch, time, width, reverse=True)
    stream, state = spec["stream"], spec["state"]
    wide = [tile.out(v.shape, v.dtype, v) for v in (x_BTE, input_gate_BTE, a_gate_BTE)]
    small = tile.out((batch, 1, width), jnp.float32, x_BTE)
    inputs = [
        *(x_BTE, input_gate_BTE, a_gate_BTE, h_BTE, h_BTE, dh_BTE),
        *(marks(reset_BT, real_BT)[..., None], gates.decay(a_param_E)[None]),
        *(h0_BE[:, None], dlast_BE[:, None]),
    ]

    def kernel(*refs):
        _backward_kernel(refs[: len(inputs)], refs[len(inputs) :], time=time, tile_t=tile_t)

    dx, di, dr, ddecay_B1E, dh0_B1E = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[
            *(stream, stream, stream, stream, spec["before"], stream, spec["flag"]),
            *(spec["channel"], state, state),
        ],
        out_specs=[stream, stream, stream, state, state],
        out_shape=[*wide, small, small],
        compiler_params=tile.sequential(),
        interpret=interpret,
        name="rg_lru_backward",
    )(*inputs)
    return dx, di, dr, ddecay_B1E.sum((0, 1)), dh0_B1E[:, 0]


def _effect_kernel(x_ref, i_ref, r_ref, flag_ref, decay_ref, *outs, time: int, tile_t: int):
    """outs carry (a, b) from tile to tile."""
    a_out_ref, b_out_ref = outs
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _():
        a_out_ref[...] = jnp.ones_like(a_out_ref)
        b_out_ref[...] = jnp.zeros_like(b_out_ref)

    def body(group, effect):
        rows = _rows(group)
        flag_R1 = flag_ref[0, rows]
        past_R1 = tile.rows_of(step, tile_t, group) >= time
        x_RE, a_RE = gates.scan_inputs(
            *(x_ref[0, rows], i_ref[0, rows], r_ref[0, rows], decay_ref[...]),
            *(flag_R1 == RESET, past_R1 | (flag_R1 == PADDING)),
        )
        return tile.effect(x_RE, a_RE, *effect)

    effect = jax.lax.fori_loop(0, tile_t // tile.ROWS, body, (a_out_ref[0], b_out_ref[0]))
    a_out_ref[0], b_out_ref[0] = effect


def effect(
    x_BTE, input_gate_BTE, a_gate_BTE, a_param_E, reset_BT, real_BT, *, interpret=False
) -> tuple[jax.Array, jax.Array]:
    """(a, b) of a sequence that turns the state h into a h + b; float32 [B, E]. Reads 3 S bytes."""
    batch, time, width = x_BTE.shape
    grid, tile_t, spec = _specs(batch, time, width, reverse=False)
    a_B1E, b_B1E = pl.pallas_call(
        functools.partial(_effect_kernel, time=time, tile_t=tile_t),
        grid=grid,
        in_specs=[*[spec["stream"]] * 3, spec["flag"], spec["channel"]],
        out_specs=[spec["state"]] * 2,
        out_shape=[tile.out((batch, 1, width), jnp.float32, x_BTE)] * 2,
        compiler_params=tile.sequential(),
        interpret=interpret,
        name="rg_lru_effect",
    )(
        *(x_BTE, input_gate_BTE, a_gate_BTE, marks(reset_BT, real_BT)[..., None]),
        gates.decay(a_param_E)[None],
    )
    return a_B1E[:, 0], b_B1E[:, 0]


def _effect_backward_kernel(r_ref, dh_ref, flag_ref, decay_ref, *outs, time: int, tile_t: int):
    a_out_ref, b_out_ref = outs
    step = pl.program_id(2)
    index = pl.num_programs(2) - 1 - step

    @pl.when(step == 0)
    def _():
        a_out_ref[...] = jnp.ones_like(a_out_ref)
        b_out_ref[...] = jnp.zeros_like(b_out_ref)

    def body(i, effect):
        group = tile_t // tile.ROWS - 1 - i
        rows = _rows(group)
        flag_R1 = flag_ref[0, rows]
        past_R1 = tile.rows_of(index, tile_t, group) >= time
        masks = (flag_R1 == RESET, past_R1 | (flag_R1 == PADDING))
        a_RE = gates.scan_decay(r_ref[0, rows], decay_ref[...], *masks)
        dh_RE = jnp.where(past_R1, 0.0, dh_ref[0, rows].astype(jnp.float32))
        return tile.effect(a_RE * dh_RE, a_RE, *effect, reverse=True)

    effect = jax.lax.fori_loop(0, tile_t // tile.ROWS, body, (a_out_ref[0], b_out_ref[0]))
    a_out_ref[0], b_out_ref[0] = effect


def effect_backward(
    a_gate_BTE, a_param_E, reset_BT, real_BT, dh_BTE, *, interpret=False
) -> tuple[jax.Array, jax.Array]:
    """(a, b) of the backward pass, which turns the gradient g of the last state into that of the
    first, a g + b. Reads 2 S bytes."""
    batch, time, width = dh_BTE.shape
    grid, tile_t, spec = _specs(batch, time, width, reverse=True)
    a_B1E, b_B1E = pl.pallas_call(
        functools.partial(_effect_backward_kernel, time=time, tile_t=tile_t),
        grid=grid,
        in_specs=[spec["stream"], spec["stream"], spec["flag"], spec["channel"]],
        out_specs=[spec["state"]] * 2,
        out_shape=[tile.out((batch, 1, width), jnp.float32, dh_BTE)] * 2,
        compiler_params=tile.sequential(),
        interpret=interpret,
        name="rg_lru_effect_backward",
    )(a_gate_BTE, dh_BTE, marks(reset_BT, real_BT)[..., None], gates.decay(a_param_E)[None])
    return a_B1E[:, 0], b_B1E[:, 0]
