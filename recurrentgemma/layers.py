# SPDX-License-Identifier: Apache-2.0
"""The layers: matrix product, RMSNorm, linear, block-diagonal linear, convolution, RG-LRU, rotary
embedding, embedder.

Activations have the dtype of their input; parameters are cast to it where they are used. Products
are accumulated in float32, norms and the recurrence are computed in it. Names and initial standard
deviations are those of DeepMind's JAX code, which differ from its PyTorch port's in the gates and
the MLP. Shape letters: config.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kernels.conv import causal_conv
from kernels.dot import dot, dot_transposed, spread
from kernels.lookup import lookup
from kernels.norm import rms_norm
from kernels.rg_lru import rg_lru
from recurrentgemma import parallel, sharding
from recurrentgemma.config import CONV_WIDTH, GriffinConfig
from recurrentgemma.remat import GATES, keep

ROPE_BASE = 10_000.0


def normal_init(std: float) -> nnx.Initializer:
    return jax.nn.initializers.normal(std)


def matmul(x: jax.Array, w_IJ: jax.Array) -> jax.Array:
    """x [..., I] times w [I, J], in x's dtype, summed in float32."""
    y = dot(x.reshape(-1, x.shape[-1]), w_IJ)
    return y.astype(x.dtype).reshape(*x.shape[:-1], w_IJ.shape[1])


def matmul_transposed(x: jax.Array, w_JI: jax.Array) -> jax.Array:
    """x [..., I] times the transpose of w [J, I], in x's dtype, summed in float32."""
    y = dot_transposed(x.reshape(-1, x.shape[-1]), w_JI)
    return y.astype(x.dtype).reshape(*x.shape[:-1], w_JI.shape[0])


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + 1e-6) (1 + scale), computed in float32; the scale starts at 0."""

    def __init__(self, width: int, *, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.zeros((width,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.scale[...])


class Linear(nnx.Module):
    """x weight^T + bias. The weight is [J, I], output first: so a CPU reads it faster
    when there are few rows, as in decoding, and no slower when there are many.

    sums: on several devices each has a part of the I inputs, and the products are summed over them.
    """

    def __init__(
        self,
        fan_in: int,
        width: int,
        *,
        std: float,
        bias: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        sums: bool = False,
    ):
        self.sums = sums
        self.weight = nnx.Param(normal_init(std)(rngs.params(), (width, fan_in), dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = matmul_transposed(x, self.weight[...])
        if self.sums:
            y = parallel.all_reduce(y, "tensor")
        if self.bias is None:
            return y
        return y + spread(self.bias[...], y)


class BlockDiagonalLinear(nnx.Module):
    """N independent linear maps on N equal slices of the channels (paper, section 4.1).

    DeepMind's code counts the block axis as fan-in: std 1/sqrt(E), not 1/sqrt(E/N).
    """

    def __init__(self, width: int, blocks: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        size = width // blocks
        init = normal_init(1 / math.sqrt(width))
        self.w = nnx.Param(init(rngs.params(), (blocks, size, size), dtype))
        self.b = nnx.Param(jnp.zeros((blocks, size), dtype))

    def __call__(self, x_BTE: jax.Array) -> jax.Array:
        w_NIJ = self.w[...]
        blocks = jnp.split(x_BTE, w_NIJ.shape[0], axis=-1)
        y_BTE = jnp.concatenate([matmul(x, w_NIJ[n]) for n, x in enumerate(blocks)], -1)
        return y_BTE + spread(self.b[...].reshape(-1), y_BTE)


class Conv1D(nnx.Module):
    """Causal depthwise convolution of temporal width 4, within the document."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        init = normal_init(math.sqrt(0.01 / CONV_WIDTH))
        self.w = nnx.Param(init(rngs.params(), (CONV_WIDTH, width), dtype))
        self.b = nnx.Param(jnp.zeros((width,), dtype))

    def __call__(
        self, x_BTE: jax.Array, past_B3E: jax.Array | None, positions_BT: jax.Array
    ) -> jax.Array:
        axis = parallel.axis("sequence")
        return causal_conv(x_BTE, self.w[...], self.b[...], past_B3E, positions_BT, axis=axis)


def a_param_init(config: GriffinConfig) -> nnx.Initializer:
    """softplus(a_param) = -log a (code) or -log(a) / 8 (paper), a^2 uniform in [0.9^2, 0.999^2].

    The paper draws a^c itself, uniformly (section 2.4); its c is 8.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        uniform = functools.partial(jax.random.uniform, key, shape, jnp.float32)
        if config.a_init == "paper":
            minus_log_a = -jnp.log(uniform(minval=0.9, maxval=0.999)) / 8
        else:
            minus_log_a = -0.5 * jnp.log(uniform(minval=0.9**2, maxval=0.999**2))
        return jnp.log(jnp.expm1(minus_log_a)).astype(dtype)

    return init


class RGLRU(nnx.Module):
    """The real-gated linear recurrent unit (paper, section 2.4), with its two gates."""

    def __init__(self, config: GriffinConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, blocks = config.lru_width, config.num_gate_blocks
        self.a_param = nnx.Param(a_param_init(config)(rngs.params(), (width,), dtype))
        self.input_gate = BlockDiagonalLinear(width, blocks, dtype=dtype, rngs=rngs)
        self.a_gate = BlockDiagonalLinear(width, blocks, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_BTE: jax.Array,
        h0_BE: jax.Array | None,
        positions_BT: jax.Array,
        real_BT: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        return rg_lru(
            x_BTE,
            keep(self.input_gate(x_BTE), GATES),
            keep(self.a_gate(x_BTE), GATES),
            self.a_param[...],
            h0_BE,
            reset_BT=positions_BT == 0,
            real_BT=real_BT,
            axis=parallel.axis("sequence"),
        )


def rotary(x_BTHK: jax.Array, distance_BT: jax.Array) -> jax.Array:
    """Rotary embedding of the first half of each head (base 10000, pairs i and i + K/4).

    The angle is a phase in units of 2^-32 turns, distance times frequency in uint32, which wraps as
    angles do: two tokens differ by the same phase wherever they stand in their document, and
    distance (tokens from its start) is needed modulo 2^32 only. Rounding the frequency to a whole
    number moves the angle of two tokens that are d apart by less than d 2^-33 turns.
    """
    quarter = x_BTHK.shape[-1] // 4
    turns_Q = ROPE_BASE ** (-np.arange(quarter) / quarter) / (2 * np.pi)
    frequency_Q = np.round(turns_Q * 2**32).astype(np.uint32)
    phase_BT1Q = distance_BT.astype(jnp.uint32)[..., None, None] * frequency_Q[None, None, None]
    signed_BT1Q = jax.lax.bitcast_convert_type(phase_BT1Q, jnp.int32)  # small angles: all digits
    angle_BT1Q = signed_BT1Q.astype(jnp.float32) * (2 * np.pi / 2**32)
    sin, cos = jnp.sin(angle_BT1Q), jnp.cos(angle_BT1Q)
    first = x_BTHK[..., :quarter].astype(jnp.float32)
    second = x_BTHK[..., quarter : 2 * quarter].astype(jnp.float32)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return jnp.concatenate([turned.astype(x_BTHK.dtype), x_BTHK[..., 2 * quarter :]], -1)


class Embedder(nnx.Module):
    """Token embedding [V, D], tied with the output head."""

    def __init__(self, config: GriffinConfig, *, rngs: nnx.Rngs):
        init = normal_init(1 / math.sqrt(config.width))
        shape = (config.vocab_size, config.width)
        self.input_embedding = nnx.Param(init(rngs.params(), shape, jnp.dtype(config.param_dtype)))

    def encode(self, tokens_BT: jax.Array, config: GriffinConfig) -> jax.Array:
        x_BTD = self._rows(tokens_BT, jnp.dtype(config.dtype))
        if config.scale_embeddings:  # rounded to bfloat16 whatever the dtype, as in DeepMind's code
            x_BTD *= jnp.sqrt(config.width).astype(jnp.bfloat16).astype(x_BTD.dtype)
        return x_BTD

    def table(self, dtype: jnp.dtype) -> jax.Array:
        """The table as the output head multiplies with it: [V, D], over tensor a part of V."""
        name = "embedder/input_embedding"
        return parallel.gather(self.input_embedding[...], sharding.gathered_dimension(name), dtype)

    def _rows(self, tokens_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Rows of the table. Each device looks up its part of the width for the tokens of all, and
        they exchange those: the table itself, which is larger, stays where it is."""
        table_VD = parallel.replicate(self.input_embedding[...], "data")
        tokens_BT = parallel.all_rows(tokens_BT)
        if parallel.size("tensor") == 1:
            return parallel.exchange_rows(lookup(table_VD, tokens_BT).astype(dtype))
        rows = table_VD.shape[0]
        row_BT, here_BT = parallel.local_rows(tokens_BT, rows)
        x_BTD = lookup(table_VD, row_BT).astype(dtype)
        x_BTD = jnp.where(here_BT[..., None], x_BTD, 0)
        return parallel.exchange_rows(parallel.all_reduce(x_BTD, "tensor"))
