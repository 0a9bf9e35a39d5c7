# SPDX-License-Identifier: Apache-2.0
"""Parameters, bytes and FLOPs of a configuration, by arithmetic: nothing is allocated."""

import math

from recurrentgemma.config import CONV_WIDTH, GriffinConfig


def param_shapes(config: GriffinConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by canonical name (per layer, as in checkpoints)."""
    c = config
    d, e, f = c.width, c.lru_width, c.mlp_width
    n, i = c.num_gate_blocks, c.lru_width // c.num_gate_blocks
    hk, k = c.num_heads * c.head_dim, c.head_dim
    recurrent = {
        "linear_x/weight": (e, d),
        "linear_x/bias": (e,),
        "linear_y/weight": (e, d),
        "linear_y/bias": (e,),
        "linear_out/weight": (d, e),
        "linear_out/bias": (d,),
        "conv_1d/w": (CONV_WIDTH, e),
        "conv_1d/b": (e,),
        "rg_lru/a_param": (e,),
        "rg_lru/input_gate/w": (n, i, i),
        "rg_lru/input_gate/b": (n, i),
        "rg_lru/a_gate/w": (n, i, i),
        "rg_lru/a_gate/b": (n, i),
    }
    attention = {
        "proj_q/weight": (hk, d),
        "proj_k/weight": (k, d),
        "proj_v/weight": (k, d),
        "proj_final/weight": (d, hk),
        "proj_final/bias": (d,),
    }
    mlp = {
        "ffw_gate/weight": (f, d),
        "ffw_gate/bias": (f,),
        "ffw_up/weight": (f, d),
        "ffw_up/bias": (f,),
        "ffw_down/weight": (d, f),
        "ffw_down/bias": (d,),
    }
    shapes: dict[str, tuple[int, ...]] = {"embedder/input_embedding": (c.vocab_size, d)}
    for layer, block_type in enumerate(c.block_types):
        block = f"blocks.{layer}/"
        shapes[block + "temporal_pre_norm/scale"] = (d,)
        if block_type == "recurrent":
            shapes |= {block + "recurrent_block/" + name: s for name, s in recurrent.items()}
        else:
            shapes |= {block + "attention_block/" + name: s for name, s in attention.items()}
        shapes[block + "channel_pre_norm/scale"] = (d,)
        shapes |= {block + "mlp_block/" + name: shape for name, shape in mlp.items()}
    shapes["final_norm/scale"] = (d,)
    return shapes


def parameter_count(config: GriffinConfig) -> int:
    """Number of parameters; the embedding, tied to the output, counts once."""
    return sum(map(math.prod, param_shapes(config).values()))


def parameters_by_part(config: GriffinConfig) -> dict[str, int]:
    """Number of parameters in the embedding, the recurrent, attention and MLP blocks, the norms."""
    parts: dict[str, int] = {"embedding": 0, "recurrent": 0, "attention": 0, "mlp": 0, "norms": 0}
    for name, shape in param_shapes(config).items():
        if name.startswith("embedder/"):
            part = "embedding"
        elif "/recurrent_block/" in name:
            part = "recurrent"
        elif "/attention_block/" in name:
            part = "attention"
        elif "/mlp_block/" in name:
            part = "mlp"
        else:
            part = "norms"
        parts[part] += math.prod(shape)
    return parts


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
    for name, shape in param_shapes(c).items():
        if len(shape) > 1 and not name.endswith(("/b", "conv_1d/w")):
            matmul += math.prod(shape)
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
    total = 4  # position
    for block_type in config.block_types:
        if block_type == "recurrent":
            total += 4 * config.lru_width + item * (CONV_WIDTH - 1) * config.lru_width
        else:
            total += 2 * item * config.keys_held(block_type) * config.head_dim
    return total
