# SPDX-License-Identifier: Apache-2.0
"""Logits to tokens, on the device, each row of a batch by its own Sampling and its own seed.

B batch, V vocabulary, M 32-bit words of a bit a token, N reported likeliest tokens.

No sort: the vocabulary has up to 256,000 entries. The thresholds of top-k and top-p are found by
bisection over the 32 bits of a float, in 32 passes, and only when a row of the batch asks for one.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrentgemma.generation.sampling import Sampling

GREEDY_BELOW = 1e-6  # a temperature below this is taken for 0: the likeliest token


class SamplingArrays(NamedTuple):
    """The Sampling of each row, as arrays. Slots of a batch are set by `.at[slot].set`."""

    temperature_B: Any  # float32; 0 takes the likeliest token
    top_k_B: Any  # int32; 0 keeps every token
    top_p_B: Any  # float32; 1 keeps every token
    min_p_B: Any  # float32; 0 keeps every token
    seed_B2: Any  # uint32, the two halves of a 64-bit seed


def sampling_arrays(samplings: Sequence[Sampling]) -> SamplingArrays:
    """One row for each, as numpy arrays. A seed of None is drawn from the system here."""
    words = [int.from_bytes(os.urandom(8)) if s.seed is None else s.seed % 2**64 for s in samplings]
    return SamplingArrays(
        np.array([s.temperature for s in samplings], np.float32),
        np.array([min(s.top_k or 0, 2**31 - 1) for s in samplings], np.int32),
        np.array([s.top_p for s in samplings], np.float32),
        np.array([s.min_p for s in samplings], np.float32),
        np.array([[word >> 32, word & 0xFFFFFFFF] for word in words], np.uint32),
    )


def stop_array(
    samplings: Sequence[Sampling], own: Sequence[int], *, width: int | None = None
) -> np.ndarray:
    """The tokens that end each row, int32 [B, S]; -1 is none.

    own: the tokenizer's. width: S; by default as much as is needed.
    """
    rows = [
        [*dict.fromkeys((*(() if s.ignore_eos else own), *s.stop_token_ids))] for s in samplings
    ]
    width = max(1, *map(len, rows)) if width is None else width
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int32)


def likeliest(logits_BV: jax.Array) -> jax.Array:
    """The likeliest token of each row, the first of equals, int32 [B].

    XLA's CPU compiler makes an argmax three times slower than a maximum and a search for it.
    """
    most_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    index_1V = jnp.arange(logits_BV.shape[1], dtype=jnp.int32)[None]
    return jnp.min(jnp.where(logits_BV == most_B1, index_1V, logits_BV.shape[1] - 1), axis=-1)


def sample(logits_BV: jax.Array, sampling: SamplingArrays, step_B: jax.Array) -> jax.Array:
    """The next token of each row, int32 [B].

    logits_BV: float32, before temperature.
    step_B: how many tokens the row has sampled before. A row's choice depends on its own logits,
      Sampling and step alone: not on its place in the batch, nor on its neighbours.

    The temperature comes first, then top-k, then top-p of what is left, and min-p. Tokens that are
    exactly as likely as the last one kept are kept too.
    """
    greedy_B = sampling.temperature_B < GREEDY_BELOW
    most_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    likeliest_B = likeliest(logits_BV)

    def draw() -> jax.Array:
        temperature_B1 = jnp.where(greedy_B, 1.0, sampling.temperature_B)[:, None]
        scaled_BV = (logits_BV - most_B1) / temperature_B1
        kept_BV = jnp.where(_keep(scaled_BV, sampling, greedy_B), scaled_BV, -jnp.inf)
        keys_B = jax.vmap(jax.random.fold_in)(
            jax.random.wrap_key_data(sampling.seed_B2, impl="threefry2x32"), step_B
        )
        return jnp.where(greedy_B, likeliest_B, jax.vmap(_categorical)(keys_B, kept_BV))

    return jax.lax.cond(jnp.all(greedy_B), lambda: likeliest_B, draw)


def masked(logits_BV: jax.Array, allowed_BM: jax.Array) -> jax.Array:
    """The logits of tokens that may follow, -inf for all others.

    allowed_BM: uint32, M = ceil(V / 32): bit v % 32 of word v // 32 is 1 where token v may follow.
      A row of ones only keeps its logits bit for bit.
    """
    bits_BM32 = allowed_BM[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None] & 1
    allowed_BV = bits_BM32.reshape(len(logits_BV), -1)[:, : logits_BV.shape[1]] == 1
    return jnp.where(allowed_BV, logits_BV, -jnp.inf)


def log_probs(
    logits_BV: jax.Array, tokens_B: jax.Array, top: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each token its log-probability (nats, temperature 1), and the `top` likeliest tokens.

    Returns logp_B, top_logp_BN and top_tokens_BN, likeliest first.
    """
    log_z_B = jax.nn.logsumexp(logits_BV, axis=-1)
    token_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)[:, 0]
    top_BN, tokens_BN = jax.lax.top_k(logits_BV, top)
    return token_B - log_z_B, top_BN - log_z_B[:, None], tokens_BN.astype(jnp.int32)


def _categorical(key: jax.Array, logits_V: jax.Array) -> jax.Array:
    """A draw from softmax(logits), whose maximum is 0: first a block of tokens, then one of them.

    The noise of Gumbel's trick is then made for 2 sqrt(V) numbers instead of V, which at 256,000
    would cost more than all the rest.
    """
    vocab_size = logits_V.shape[0]
    width = 2 ** math.ceil(math.log2(vocab_size) / 2)
    padding = (0, -vocab_size % width)
    blocks_MN = jnp.pad(logits_V, padding, constant_values=-jnp.inf).reshape(-1, width)
    blocks = blocks_MN.shape[0]
    noise = jax.random.gumbel(key, (blocks + width,), jnp.float32)
    mass_M = jnp.sum(jnp.exp(blocks_MN), axis=1)
    block = jnp.argmax(jnp.log(mass_M) + noise[:blocks])
    place = jnp.argmax(blocks_MN[block] + noise[blocks:])
    return (block * width + place).astype(jnp.int32)


def _keep(scaled_BV: jax.Array, sampling: SamplingArrays, greedy_B: jax.Array) -> jax.Array:
    """Which tokens may be drawn. scaled_BV is 0 at the likeliest. Greedy rows ask for nothing."""
    keep_BV = scaled_BV >= jnp.log(sampling.min_p_B)[:, None]  # log(p / p of the likeliest)
    top_k_B = jnp.where(greedy_B, 0, sampling.top_k_B)
    top_p_B = jnp.where(greedy_B, 1.0, sampling.top_p_B)
    order_BV = _order(scaled_BV)

    def most_likely_k() -> jax.Array:
        ones_BV = jnp.ones_like(scaled_BV, jnp.int32)
        return _largest_threshold(order_BV, ones_BV, top_k_B)

    zero_B = jnp.zeros(scaled_BV.shape[:1], jnp.uint32)
    least_B = jax.lax.cond(jnp.any(top_k_B > 0), most_likely_k, lambda: zero_B)
    in_top_k_BV = order_BV >= least_B[:, None]

    def nucleus() -> jax.Array:
        mass_BV = jnp.where(in_top_k_BV, jnp.exp(scaled_BV), 0.0)
        wanted_B = jnp.where(top_p_B < 1, top_p_B * jnp.sum(mass_BV, axis=-1), 0.0)
        return _largest_threshold(order_BV, mass_BV, wanted_B)

    least_B = jax.lax.cond(jnp.any(top_p_B < 1), nucleus, lambda: zero_B)
    return keep_BV & in_top_k_BV & (order_BV >= least_B[:, None])


def _order(x: jax.Array) -> jax.Array:
    """float32 as uint32 in the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _largest_threshold(order_BV: jax.Array, weight_BV: jax.Array, wanted_B: jax.Array) -> jax.Array:
    """The largest t with sum of the weights where order >= t at least `wanted`, 0 for 0."""

    def next_bit(i: jax.Array, least_B: jax.Array) -> jax.Array:
        higher_B = least_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        above_BV = jnp.where(order_BV >= higher_B[:, None], weight_BV, jnp.zeros_like(weight_BV))
        return jnp.where(jnp.sum(above_BV, axis=-1) >= wanted_B, higher_B, least_B)

    zero_B = jnp.zeros(order_BV.shape[:1], jnp.uint32)
    return jnp.where(wanted_B > 0, jax.lax.fori_loop(0, 32, next_bit, zero_B), zero_B)
