# SPDX-License-Identifier: Apache-2.0
"""What a model is: one frozen dataclass for Hawk, Griffin, RecurrentGemma and the MQA Transformer.

The paper and DeepMind's released code disagree in several places (head size, gate blocks, embedding
scale, soft cap, initial decay), so each of these is a field of its own. Presets are in presets.py.

Shape letters, used in the whole repository:
B batch, T time, S keys held, D model width, E recurrence width, F MLP hidden units, H heads,
K head size, V vocabulary, W window, N diagonal blocks of the gates.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from recurrentgemma import config_json
from recurrentgemma.errors import UserError

BlockType = Literal["recurrent", "local_attention", "global_attention"]
AInit = Literal["code", "paper"]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal[
    "auto", "block", "outputs", "mixer", "half_mlp", "mlp", "wide", "dots", "kernels", "none"
]

_SIZES = ("width", "mlp_width", "num_layers", "lru_width", "num_gate_blocks", "num_heads")
_SIZES += ("head_dim", "vocab_size", "attention_window", "context_length")
BEFORE = {"remat": "none"}
"""What a saved config that lacks a field did, where today's default may be another."""
CONV_WIDTH = 4  # temporal width of the convolution; the state keeps the last CONV_WIDTH - 1 inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class GriffinConfig:
    """Sizes and choices of one model (Griffin paper, section 2 and appendix C).

    Raises:
      UserError: a field is out of range or two fields contradict each other.
    """

    width: int  # D
    mlp_width: int  # F, hidden units of each of the two MLP branches (3 D in the papers)
    num_layers: int
    lru_width: int  # E, channels of the recurrence (about 4 D / 3 in the Griffin paper)
    num_gate_blocks: int  # N: 16 in the Griffin paper, num_heads in DeepMind's code
    num_heads: int  # H query heads; there is one key-value head
    head_dim: int  # K: 128 in the Griffin paper, 256 in RecurrentGemma
    vocab_size: int = 256_000  # V
    pattern: tuple[BlockType, ...] = ("recurrent", "recurrent", "local_attention")
    """Block types, repeated over the depth and cut at num_layers: the tail may be any length."""
    attention_window: int = 2048  # W: a query sees the W previous tokens and itself
    context_length: int = 8192  # most tokens of a document that a global_attention block can hold
    scale_embeddings: bool = False  # input embeddings times sqrt(D), rounded to bfloat16
    logits_soft_cap: float | None = (
        None  # c tanh(logits / c); 30 in RecurrentGemma, not in the paper
    )
    a_init: AInit = "code"
    """Initial decay: "code" draws a in [0.9, 0.999], "paper" draws a^8 there (section 2.4)."""
    dtype: Dtype = "float32"  # activations; the recurrence is float32 always
    param_dtype: Dtype = "float32"
    scan_layers: bool = False  # lax.scan over groups of the pattern: compile time without depth
    remat: Remat = "none"  # what the backward pass recomputes (remat.py)

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}={value!r}: expected a whole number of at least 1")
        if isinstance(self.pattern, str):
            raise UserError(f"pattern={self.pattern!r}: expected a tuple of block types")
        object.__setattr__(self, "pattern", tuple(self.pattern))
        if not self.pattern:
            raise UserError("pattern=(): expected at least one block type")
        for block_type in self.pattern:
            _expect_one_of("pattern", block_type, get_args(BlockType))
        _expect_one_of("a_init", self.a_init, get_args(AInit))
        _expect_one_of("dtype", self.dtype, get_args(Dtype))
        _expect_one_of("param_dtype", self.param_dtype, get_args(Dtype))
        _expect_one_of("remat", self.remat, get_args(Remat))
        if self.lru_width % self.num_gate_blocks:
            raise UserError(
                f"num_gate_blocks={self.num_gate_blocks} does not divide "
                f"lru_width={self.lru_width}: choose a divisor of it"
            )
        if self.head_dim % 4:
            raise UserError(
                f"head_dim={self.head_dim}: expected a multiple of 4, because rotary embedding "
                "turns pairs in the first half of each head"
            )
        cap = self.logits_soft_cap
        if cap is not None and not (isinstance(cap, int | float) and 0 < cap < math.inf):
            raise UserError(
                f"logits_soft_cap={self.logits_soft_cap!r}: expected a positive number, or None "
                "for no cap"
            )

    @property
    def block_types(self) -> tuple[BlockType, ...]:
        """The type of each of the num_layers blocks."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.num_layers))

    def keys_held(self, block_type: BlockType) -> int:
        """How many past keys the state of one attention block holds."""
        return self.context_length if block_type == "global_attention" else self.attention_window

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values that from_json reads back."""
        return config_json.to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "GriffinConfig":
        """The configuration of a to_json dictionary, in this version or an older one.

        Raises:
          UserError: a field is unknown, missing or out of range.
        """
        return config_json.from_json(cls, fields, before=BEFORE)


def _expect_one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")
