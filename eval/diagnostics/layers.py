# SPDX-License-Identifier: Apache-2.0
"""What is inside a Griffin while it reads: ranks, units and gates of every layer.

    moments = no_moments(config)
    for batch in batches:
        moments, _ = add_moments(model, moments, batch)    # inside of jax.jit
    measures(moments)[3]["pca_rank"]    # of block 3; the last one's are of the final hidden state

The forward pass is that of griffin.py, layer by layer, with each row from an empty state. On a mesh
(inside of jax.shard_map) tokens and channels of all devices are brought together, a layer at a
time, and every device has the same moments. Shape letters: recurrentgemma/config.py; M tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from eval.diagnostics import representation as rep
from kernels.gating import gelu_gate
from kernels.rg_lru.gates import decay
from recurrentgemma import parallel, sharding
from recurrentgemma.chunk import Chunk, locate
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch

SLOW, FAST = 0.999, 0.01  # mean decays that forget nothing, or everything, from token to token
SATURATED = 0.01  # of a gate whose mean is so near to 0 or 1


class LayerMoments(NamedTuple):
    """Of one block."""

    out: rep.Features  # what it gives to the next
    gate: rep.Units  # the MLP's: ffw_gate, and its GELU
    hidden: rep.Units  # the MLP's: ffw_up, and the product with the gate
    branch: rep.Units | None  # a recurrent block's: linear_y, and its GELU
    recurrence: rep.Units | None  # the RG-LRU's: r = sigmoid(a_gate), and the decay a^(8 r)
    input_gate: rep.Units | None  # the RG-LRU's: sigmoid(input_gate), twice


class Moments(NamedTuple):
    """Of all blocks, and of the hidden state after the final norm."""

    layers: tuple[LayerMoments, ...]
    final: rep.Features


def no_moments(config: GriffinConfig) -> Moments:
    """Of no tokens."""

    def layer(block_type: str) -> LayerMoments:
        mlp, channels = rep.no_units(config.mlp_width), rep.no_units(config.lru_width)
        inner = (channels,) * 3 if block_type == "recurrent" else (None,) * 3
        return LayerMoments(rep.no_features(config.width), mlp, mlp, *inner)

    layers = tuple(map(layer, config.block_types))
    return Moments(layers, rep.no_features(config.width))


def add_moments(model: Griffin, moments: Moments, batch: Batch) -> tuple[Moments, jax.Array]:
    """With the tokens of a batch, padding left out; and the last block's input x_BTD."""
    config = model.config
    chunk = _chunk(config, batch)
    x_BTD = model.embedder.encode(batch.tokens_BT, config)
    x_BTD, last_BTD, layers = _walk(model, x_BTD, moments.layers, chunk)
    x_BTD = parallel.gathered(model.final_norm, config.dtype)(x_BTD)
    final = _add_features(moments.final, x_BTD, chunk)
    return Moments(layers, final), last_BTD


def _chunk(config: GriffinConfig, batch: Batch) -> Chunk:
    shape = batch.tokens_BT.shape
    return locate(None, shape, batch.positions_BT, None, config.attention_window)


def _walk(model: Griffin, x_BTD: jax.Array, moments: tuple[LayerMoments, ...], chunk: Chunk):
    """(x_BTD after all blocks, before the last one, moments), as griffin.py goes through them."""
    config = model.config
    period = len(config.pattern)
    count = config.num_layers // period if config.scan_layers else 0
    layers: list[LayerMoments] = []
    last_BTD = x_BTD
    if count:
        graphdef, params = nnx.split(model.groups)
        stacked = [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *moments[j : count * period : period])
            for j in range(period)
        ]

        def group(carry: Any, params_and_moments: Any) -> Any:
            x_BTD, last_BTD = carry
            params, group_moments = params_and_moments
            new = []
            for block, before in zip(nnx.merge(graphdef, params), group_moments, strict=True):
                last_BTD = x_BTD
                x_BTD, after = _through(block, x_BTD, before, chunk)
                new.append(after)
            return (x_BTD, last_BTD), new

        (x_BTD, last_BTD), stacked = jax.lax.scan(group, (x_BTD, last_BTD), (params, stacked))
        layers = [
            jax.tree.map(lambda leaf, i=i: leaf[i], stacked[j])
            for i in range(count)
            for j in range(period)
        ]
    blocks = model.tail if config.scan_layers else model.blocks
    for block, before in zip(blocks, moments[len(layers) :], strict=True):
        last_BTD = x_BTD
        x_BTD, after = _through(block, x_BTD, before, chunk)
        layers.append(after)
    return x_BTD, last_BTD, tuple(layers)


def _through(block: Any, x_BTD: jax.Array, moments: LayerMoments, chunk: Chunk):
    """ResidualBlock.__call__, and what it computes on the way."""
    block = parallel.gathered(block, x_BTD.dtype)
    normed_BTD = block.temporal_pre_norm(x_BTD)
    inner: tuple[Any, ...] = (None,) * 3
    if block.recurrent:
        mixer = block.recurrent_block
        y_BTE = mixer.linear_y(normed_BTD)
        x_BTE = mixer.conv_1d(mixer.linear_x(normed_BTD), None, chunk.positions_BT)
        input_BTE, r_BTE = (
            jax.nn.sigmoid(gate(x_BTE).astype(jnp.float32))
            for gate in (mixer.rg_lru.input_gate, mixer.rg_lru.a_gate)
        )
        a_BTE = jnp.exp(decay(mixer.rg_lru.a_param[...])[None, None] * r_BTE)
        inner = (
            _add_units(moments.branch, y_BTE, _gelu(y_BTE), chunk),
            _add_units(moments.recurrence, r_BTE, a_BTE, chunk),
            _add_units(moments.input_gate, input_BTE, input_BTE, chunk),
        )
    mixer = block.recurrent_block if block.recurrent else block.attention_block
    x_BTD = x_BTD + mixer(normed_BTD, None, chunk)[0]
    normed_BTD, mlp = block.channel_pre_norm(x_BTD), block.mlp_block
    gate_BTF, up_BTF = mlp.ffw_gate(normed_BTD), mlp.ffw_up(normed_BTD)
    hidden_BTF = gelu_gate(gate_BTF, up_BTF)
    x_BTD = x_BTD + mlp.ffw_down(hidden_BTF)
    after = LayerMoments(
        _add_features(moments.out, x_BTD, chunk),
        _add_units(moments.gate, gate_BTF, _gelu(gate_BTF), chunk),
        _add_units(moments.hidden, up_BTF, hidden_BTF, chunk),
        *inner,
    )
    return x_BTD, after


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x.astype(jnp.float32))


def _add_features(features: rep.Features, x_BTD: jax.Array, chunk: Chunk) -> rep.Features:
    """With the tokens of all devices, each of which then computes the same."""
    x_MD, real_M = x_BTD.reshape(-1, x_BTD.shape[-1]), (chunk.positions_BT >= 0).reshape(-1)
    if axes := parallel.divided(*sharding.TOKEN_AXES):
        x_MD = jax.lax.all_gather(x_MD, axes, axis=0, tiled=True)
        real_M = jax.lax.all_gather(real_M, axes, axis=0, tiled=True)
    return rep.add_features(features, x_MD, real_M)


def _add_units(
    units: rep.Units | None, z_BTF: jax.Array, a_BTF: jax.Array, chunk: Chunk
) -> rep.Units:
    """With the channels of all devices and then the moments of all their tokens."""
    assert units is not None
    if axis := parallel.axis("tensor"):
        z_BTF, a_BTF = (jax.lax.all_gather(x, axis, axis=2, tiled=True) for x in (z_BTF, a_BTF))
    z_MF, a_MF = (x.reshape(-1, x.shape[-1]) for x in (z_BTF, a_BTF))
    real_M = (chunk.positions_BT >= 0).reshape(-1)
    axes = parallel.divided(*sharding.TOKEN_AXES)
    if not axes:
        return rep.add_units(units, z_MF, a_MF, real_M)
    parts = jax.lax.all_gather(rep.units_of(z_MF, a_MF, real_M), axes)
    return rep.joined_units(
        jax.tree.map(lambda whole, part: jnp.concatenate([whole[None], part]), units, parts)
    )


def measures(moments: Moments) -> list[dict[str, jax.Array]]:
    """By name, scalars: of each block, and last of the final hidden state."""
    features = [*(layer.out for layer in moments.layers), moments.final]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *features)
    known = jnp.all(stacked.count >= stacked.factor_DD.shape[-1])
    ranks = jax.lax.map(rep.ranks, stacked)  # one after the other: an SVD is compiled once
    of_features = [
        {name: jnp.where(known, rank_L[i], jnp.nan) for name, rank_L in ranks.items()}
        | {"norm": one.norm}
        for i, one in enumerate(features)
    ]
    inner = [*map(_of_units, moments.layers), {}]
    return [a | b for a, b in zip(of_features, inner, strict=True)]


def _of_units(layer: LayerMoments) -> dict[str, jax.Array]:
    gate, hidden = layer.gate, layer.hidden
    energy_F, near_dead_F = rep.energy(hidden), rep.near_dead(hidden)
    whole = jnp.sum(energy_F)
    named = {
        "dead_units": _share(rep.dead(hidden)),
        "near_dead_units": _share(near_dead_F),
        "near_dead_energy": jnp.sum(jnp.where(near_dead_F, energy_F, 0))
        / jnp.where(whole > 0, whole, 1),
        "dormant_units": _share(rep.dormant(hidden)),
        "open_gates": _share(rep.gelu_open(gate)),
        "closed_gates": _share(rep.gelu_closed(gate)),
        "linearised_gates": _share(rep.linearised(gate)),
        "gate_std": jnp.mean(rep.spread(gate)),
        "gate_norm": gate.norm,
        "up_norm": hidden.norm,
    }
    if layer.recurrence is None or layer.input_gate is None or layer.branch is None:
        return named
    return named | {
        "slow_decays": _share(layer.recurrence.out_mean_F > SLOW),
        "fast_decays": _share(layer.recurrence.out_mean_F < FAST),
        "decay": jnp.mean(layer.recurrence.out_mean_F),
        "recurrence_gate_std": jnp.mean(rep.spread(layer.recurrence)),
        "recurrence_gate_saturated": _saturated(layer.recurrence),
        "input_gate_std": jnp.mean(rep.spread(layer.input_gate)),
        "input_gate_saturated": _saturated(layer.input_gate),
        "open_branches": _share(rep.gelu_open(layer.branch)),
        "closed_branches": _share(rep.gelu_closed(layer.branch)),
    }


def _share(mask_F: jax.Array) -> jax.Array:
    return jnp.mean(mask_F, dtype=jnp.float32)


def _saturated(gate: rep.Units) -> jax.Array:
    return _share((gate.mean_F < SATURATED) | (gate.mean_F > 1 - SATURATED))
