# SPDX-License-Identifier: Apache-2.0
"""What each rematerialisation policy recomputes and keeps, by arithmetic.

A policy keeps values by name (recurrentgemma/remat.py). COST of a name: the FLOPs that make its
values, and how many values that are, per token over all layers.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from kernels.kept import ATTENTION, RECURRENCE
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig, Remat
from recurrentgemma.counts import flops_per_token
from recurrentgemma.losses import CHUNK_ELEMENTS
from recurrentgemma.remat import GATES, KEPT, MIXER, MLP_GATE, MLP_UP, OUTPUTS

UNNAMED = "unnamed"  # what only `none` keeps: of cheap operations
# Of what comes and goes in a step, how much a platform holds at the same time: the TPU compiler 0.4
# to 0.6 in plans of 2B and 9B.
AT_ONCE = {"tpu": 0.6}


class Cost(NamedTuple):
    """Per token: FLOPs of matrix products, other FLOPs, values kept of which tensor parallelism
    leaves a device its part, and values that each device keeps whole."""

    products: float
    other: float
    divided: float
    whole: float


def costs(config: GriffinConfig, sequence: int) -> dict[str, Cost]:
    """The cost of every name."""
    c, d, e, f = config, config.width, config.lru_width, config.mlp_width
    hk, k, gates = c.num_heads * c.head_dim, c.head_dim, 2 * c.lru_width**2 / c.num_gate_blocks
    n = c.num_layers
    r = c.block_types.count("recurrent")
    a = n - r
    counts = flops_per_token(c, sequence)
    return {
        ATTENTION: Cost(0, counts["attention"], a * hk, 0),
        OUTPUTS: Cost(2 * d * (r * e + a * hk), 0, 0, n * d),
        MIXER: Cost(2 * d * (2 * r * e + a * (hk + 2 * k)), 0, r * 2 * e + a * hk, a * 2 * k),
        MLP_GATE: Cost(n * 2 * d * f, 0, n * f, 0),
        MLP_UP: Cost(n * 2 * d * f, 0, n * f, 0),
        GATES: Cost(r * 2 * gates, 0, r * 2 * e, 0),
        RECURRENCE: Cost(0, counts["recurrence"], r * e, 0),
        # two normed inputs, the convolution and GELU before linear_out or rotated queries and keys
        # and the turned output before proj_final, and the MLP's GELU
        UNNAMED: Cost(0, 0, r * 2 * e + a * (2 * hk + k) + n * f, n * 3 * d),
    }


def again(config: GriffinConfig, sequence: int, remat: Remat) -> tuple[float, float]:
    """FLOPs per token of what the backward pass computes again: (matrix products, all)."""
    lost = [
        cost
        for name, cost in costs(config, sequence).items()
        if remat in KEPT and name not in KEPT[remat]
    ]
    products = sum(cost.products for cost in lost)
    return products, products + sum(cost.other for cost in lost)


def kept_bytes(config: GriffinConfig, sequence: int, remat: Remat, tensor: int = 1) -> float:
    """Bytes per token that a device keeps of the blocks for the backward pass: their inputs, and
    what has a name that the policy keeps."""
    names = (*KEPT["kernels"], UNNAMED) if remat not in KEPT else KEPT[remat]
    table = costs(config, sequence)
    values = config.num_layers * config.width
    values += sum(table[name].divided / tensor + table[name].whole for name in names)
    return values * (4 if config.dtype == "float32" else 2)


def step_bytes(
    config: GriffinConfig, tokens: float, mesh: Mapping[str, int], platform: str
) -> float:
    """Bytes that a device takes for a while in a training step, estimated, for `tokens` of its own:
    logits with their gradient, the gradient of the embedding where one device has it whole, one
    block's hidden units, and the gradients of one group's weights before they are scattered. Of
    these a part, where they are not held at the same time (AT_ONCE)."""
    item, tensor = (4 if config.dtype == "float32" else 2), mesh["tensor"]
    divided = any(mesh[axis] > 1 for axis in sharding.PARAMETER_AXES)
    vocabulary = config.vocab_size / tensor
    logits = min(tokens * vocabulary, CHUNK_ELEMENTS[platform])
    embedding = 0.0 if divided else 4.0 * vocabulary * config.width
    hidden = 10 * item * tokens * config.mlp_width / tensor
    weights = 3 * config.width * (config.mlp_width + config.lru_width) / tensor
    group = weights * len(config.pattern) * (4 + item) if divided else 0.0
    return AT_ONCE.get(platform, 1.0) * (logits * (4 + item) + embedding + hidden + group)


def training_flops(
    config: GriffinConfig, batch: int, sequence: int, mesh: Mapping[str, int]
) -> dict[str, float]:
    """FLOPs of a step. model: forward and backward, nothing twice; per_device: with what each
    device computes again, the logits among it where the embedding is divided and used by parts
    (vocab_parts.py);
    products: the part of per_device that a program without kernels' insides shows."""
    counts = flops_per_token(config, sequence)
    products, recomputed = again(config, sequence, config.remat)
    tokens = batch * sequence / math.prod(mesh.values())
    divided = any(mesh[axis] > 1 for axis in sharding.PARAMETER_AXES)
    parts = tokens * config.vocab_size > CHUNK_ELEMENTS["tpu"]  # else the compiler makes them once
    head = 2.0 * config.vocab_size * config.width if divided and parts else 0.0
    keys = 4.0 * config.width * config.head_dim  # and values, which every tensor device computes
    keys *= config.num_layers - config.block_types.count("recurrent")
    passes = 3 if config.remat not in KEPT or MIXER in KEPT[config.remat] else 4
    repeated = passes * keys * (mesh["tensor"] - 1)
    return {
        "model": batch * sequence * counts["training"],
        "per_device": tokens * (counts["training"] + recomputed + head + repeated),
        "products": tokens * (3 * counts["matmul"] + products + head + repeated),
    }
