# SPDX-License-Identifier: Apache-2.0
"""Parameters, bytes and FLOPs of a configuration, by arithmetic: nothing is allocated."""

import math
from typing import get_args

from recurrentgemma.config import CONV_WIDTH, GriffinConfig
from recurrentgemma.parameters import Part, param_shapes, parameters


def parameter_count(config: GriffinConfig) -> int:
    """Number of parameters; the embedding, tied to the output, counts once."""
    return sum(map(math.prod, param_shapes(config).values()))


def parameters_by_part(config: GriffinConfig) -> dict[Part, int]:
    """Number of parameters in the embedding, the recurrent, attention and MLP blocks, the norms."""
    counts: dict[Part, int] = dict.fromkeys(get_args(Part), 0)
    for _, row in parameters(config):
        counts[row.part] += math.prod(row.shape(config))
    return counts


def flops_per_token(config: GriffinConfig, sequence_length: int | None = None) -> dict[str, float]:
    """Forward and training FLOPs per token, averaged over a document of sequence_length tokens.

    Two FLOPs per multiply-add of every matrix product, attention over the keys a token really sees
    (itself and at most W before it), and the recurrence and convolution. Training is three
    forwards; recomputation under rematerialisation is not counted. The default length is where
    every window is full and a global attention block has half its context on average.
    """
    c = config
    length = sequence_length or max(c.context_length, 2 * c.attention_window)
    matmul = 0
    for _, row in parameters(c):
        if len(row.axes) > 1 and row.axes not in (("4", "E"), ("N", "J")):  # taps, gates' biases
            matmul += math.prod(row.shape(c))
    attention = 0.0
    for block_type in c.block_types:
        if block_type != "recurrent":
            window = min(c.keys_held(block_type), length - 1)
            pairs = (window + 1) * length - window * (window + 1) / 2
            attention += 4 * c.num_heads * c.head_dim * pairs / length
    recurrent_layers = c.block_types.count("recurrent")
    recurrence = recurrent_layers * c.lru_width * (2 * CONV_WIDTH + 16)
    forward = 2.0 * matmul + attention + recurrence
    return {
        "matmul": 2.0 * matmul,
        "attention": attention,
        "recurrence": float(recurrence),
        "forward": forward,
        "training": 3.0 * forward,
    }


def state_bytes(config: GriffinConfig) -> int:
    """Bytes of the state of one sequence: it does not depend on how many tokens it has seen."""
    item = 4 if config.dtype == "float32" else 2
    size = 8  # position, and what of it has wrapped
    for block_type in config.block_types:
        if block_type == "recurrent":
            size += 4 * config.lru_width + item * (CONV_WIDTH - 1) * config.lru_width
        else:
            size += 2 * item * config.keys_held(block_type) * config.head_dim
    return size
