# SPDX-License-Identifier: Apache-2.0
"""The blocks: residual, recurrent, attention, gated MLP (Griffin paper, section 2).

A temporal block maps (x_BTD, its state or None, chunk) to (x_BTD, its new state). Shape letters:
config.py.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.gating import gelu_gate
from kernels.local_attention import local_attention, write_one, write_ring
from kernels.sequence import take_tokens
from recurrentgemma import parallel
from recurrentgemma.chunk import Chunk
from recurrentgemma.config import CONV_WIDTH, BlockType, GriffinConfig
from recurrentgemma.layers import RGLRU, Conv1D, Linear, RMSNorm, rotary
from recurrentgemma.remat import MIXER, MLP_GATE, MLP_UP, OUTPUTS, keep
from recurrentgemma.state import AttentionState, RecurrentState


class RecurrentBlock(nnx.Module):
    """out(gelu(linear_y(x)) * RG-LRU(conv(linear_x(x)))) (paper, section 2.3)."""

    def __init__(self, config: GriffinConfig, *, out_std: float, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.param_dtype)
        d, e = config.width, config.lru_width
        std = 1 / math.sqrt(d)
        self.linear_y = Linear(d, e, std=std, bias=True, dtype=dtype, rngs=rngs)
        self.linear_x = Linear(d, e, std=std, bias=True, dtype=dtype, rngs=rngs)
        self.linear_out = Linear(
            e, d, std=out_std / math.sqrt(e), bias=True, dtype=dtype, rngs=rngs, sums=True
        )
        self.conv_1d = Conv1D(e, dtype=dtype, rngs=rngs)
        self.rg_lru = RGLRU(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BTD: jax.Array, state: RecurrentState | None, chunk: Chunk
    ) -> tuple[jax.Array, RecurrentState]:
        x_BTD = parallel.replicate(x_BTD, "tensor")
        y_BTE = keep(self.linear_y(x_BTD), MIXER)
        x_BTE = keep(self.linear_x(x_BTD), MIXER)
        past_B3E, h0_BE = (state.conv_B3E, state.h_BE) if state else (None, None)
        conv_B3E = last_inputs(x_BTE, past_B3E, chunk)
        x_BTE = self.conv_1d(x_BTE, past_B3E, chunk.positions_BT)
        h_BTE, h_BE = self.rg_lru(x_BTE, h0_BE, chunk.positions_BT, chunk.real_BT)
        out_BTD = keep(self.linear_out(gelu_gate(y_BTE, h_BTE)), OUTPUTS)
        return out_BTD, RecurrentState(h_BE, conv_B3E)


def last_inputs(x_BTE: jax.Array, past_B3E: jax.Array | None, chunk: Chunk) -> jax.Array:
    """The last three inputs of the current document, zero where it has had fewer."""
    batch, time, width = x_BTE.shape
    if past_B3E is None:
        past_B3E = jnp.zeros((batch, CONV_WIDTH - 1, width), x_BTE.dtype)
    age_3 = jnp.arange(CONV_WIDTH - 1, 0, -1)
    index_B3 = (CONV_WIDTH - 1) + chunk.end_B[:, None] - age_3[None]
    if axis := parallel.axis("sequence"):
        last_B3E = take_tokens(x_BTE, past_B3E, index_B3, axis)
        return jnp.where((age_3[None] <= chunk.next_position_B[:, None])[..., None], last_B3E, 0)
    tail_B6E = jnp.concatenate([past_B3E.astype(x_BTE.dtype), x_BTE[:, -(CONV_WIDTH - 1) :]], 1)
    if chunk.real_BT is None:
        return tail_B6E[:, -(CONV_WIDTH - 1) :]
    all_BSE = tail_B6E if time < CONV_WIDTH else jnp.concatenate([past_B3E, x_BTE], 1)
    last_B3E = jnp.take_along_axis(all_BSE, index_B3[..., None], 1)
    return jnp.where((age_3[None] <= chunk.next_position_B[:, None])[..., None], last_B3E, 0)


class AttentionBlock(nnx.Module):
    """Multi-query attention over a sliding window, with rotary embedding (paper, section 2.3).

    Global attention is the same with the whole context as its window.
    """

    def __init__(
        self, config: GriffinConfig, *, block_type: BlockType, out_std: float, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(config.param_dtype)
        d, k, hk = config.width, config.head_dim, config.num_heads * config.head_dim
        std = 1 / math.sqrt(d)
        self.head_dim = config.head_dim
        self.window = config.keys_held(block_type)
        self.proj_q = Linear(d, hk, std=std, bias=False, dtype=dtype, rngs=rngs)
        self.proj_k = Linear(d, k, std=std, bias=False, dtype=dtype, rngs=rngs)
        self.proj_v = Linear(d, k, std=std, bias=False, dtype=dtype, rngs=rngs)
        std = out_std / math.sqrt(hk)
        self.proj_final = Linear(hk, d, std=std, bias=True, dtype=dtype, rngs=rngs, sums=True)

    def __call__(
        self, x_BTD: jax.Array, state: AttentionState | None, chunk: Chunk
    ) -> tuple[jax.Array, AttentionState]:
        batch, time, _ = x_BTD.shape
        q_BTX = keep(self.proj_q(parallel.replicate(x_BTD, "tensor")), MIXER)
        q_BTHK = q_BTX.reshape(batch, time, -1, self.head_dim)
        q_BTHK = rotary(q_BTHK, chunk.distance_BT)
        k_BTK = keep(self.proj_k(x_BTD), MIXER)
        k_BTK = rotary(k_BTK[:, :, None], chunk.distance_BT)[:, :, 0]
        v_BTK = keep(self.proj_v(x_BTD), MIXER)
        out_BTHK = local_attention(
            q_BTHK,
            *(parallel.replicate(x, "tensor") for x in (k_BTK, v_BTK, *(state or ()))),
            window=self.window,
            positions_BT=chunk.positions_BT,
            start_position_B=chunk.start_position_B,
            axis=parallel.axis("sequence"),
        )
        new_state = AttentionState(
            self._remember(state and state.keys_BWK, k_BTK, chunk),
            self._remember(state and state.values_BWK, v_BTK, chunk),
        )
        out_BTD = keep(self.proj_final(out_BTHK.reshape(batch, time, -1)), OUTPUTS)
        return out_BTD, new_state

    def _remember(self, ring_BWK: jax.Array | None, new_BTK: jax.Array, chunk: Chunk) -> jax.Array:
        axis = parallel.axis("sequence")
        if ring_BWK is not None and new_BTK.shape[1] == 1 and axis is None:
            return write_one(
                ring_BWK,
                new_BTK,
                position_B1=chunk.positions_BT,
                real_B1=chunk.real_BT,
                may_reset=chunk.may_reset,
            )
        return write_ring(
            ring_BWK,
            new_BTK,
            self.window,
            start_position_B=chunk.start_position_B,
            end_B=chunk.end_B,
            next_position_B=chunk.next_position_B,
            axis=axis,
        )


class MLPBlock(nnx.Module):
    """down(gelu(gate(x)) * up(x)) (paper, section 2.2).

    Two matrices where DeepMind has one [2, D, F]: each has the layout its product wants.
    """

    def __init__(self, config: GriffinConfig, *, out_std: float, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.param_dtype)
        d, f = config.width, config.mlp_width
        std = 1 / math.sqrt(2 * d)  # DeepMind's JAX code counts the two branches as fan-in
        self.ffw_gate = Linear(d, f, std=std, bias=True, dtype=dtype, rngs=rngs)
        self.ffw_up = Linear(d, f, std=std, bias=True, dtype=dtype, rngs=rngs)
        std = out_std / math.sqrt(f)
        self.ffw_down = Linear(f, d, std=std, bias=True, dtype=dtype, rngs=rngs, sums=True)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x_BTD = parallel.replicate(x_BTD, "tensor")
        gate_BTF = keep(self.ffw_gate(x_BTD), MLP_GATE)
        up_BTF = keep(self.ffw_up(x_BTD), MLP_UP)
        return self.ffw_down(gelu_gate(gate_BTF, up_BTF))


class ResidualBlock(nnx.Module):
    """x1 = x + temporal(norm(x)); x2 = x1 + mlp(norm(x1)) (paper, section 2.1)."""

    def __init__(self, config: GriffinConfig, *, block_type: BlockType, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.param_dtype)
        out_std = math.sqrt(2 / config.num_layers)
        self.temporal_pre_norm = RMSNorm(config.width, dtype=dtype)
        if block_type == "recurrent":
            self.recurrent_block = RecurrentBlock(config, out_std=out_std, rngs=rngs)
        else:
            self.attention_block = AttentionBlock(
                config, block_type=block_type, out_std=out_std, rngs=rngs
            )
        self.channel_pre_norm = RMSNorm(config.width, dtype=dtype)
        self.mlp_block = MLPBlock(config, out_std=out_std, rngs=rngs)
        self.recurrent = block_type == "recurrent"

    def __call__(
        self,
        x_BTD: jax.Array,
        state: RecurrentState | AttentionState | None,
        chunk: Chunk,
    ) -> tuple[jax.Array, RecurrentState | AttentionState]:
        temporal: Any = self.recurrent_block if self.recurrent else self.attention_block
        mixed_BTD, new_state = temporal(self.temporal_pre_norm(x_BTD), state, chunk)
        x_BTD = x_BTD + mixed_BTD
        return x_BTD + self.mlp_block(self.channel_pre_norm(x_BTD)), new_state
