# SPDX-License-Identifier: Apache-2.0
"""The models of the Griffin paper's copying and recall experiments (appendix H): 5 blocks of width
64, about 250,000 parameters, a vocabulary of 16; Griffin's one local attention layer is in block 3.

What the paper leaves open is chosen so that all three come close to 250,000: E = 64, and 4 heads of
16 channels, because its heads of 128 are wider than the model. The decay begins as in its section
2.4.
"""

from typing import Literal

from recurrentgemma.config import BlockType, GriffinConfig

ModelName = Literal["griffin", "hawk", "mqa"]
PATTERNS: dict[str, tuple[BlockType, ...]] = {
    "griffin": ("recurrent", "recurrent", "local_attention", "recurrent", "recurrent"),
    "hawk": ("recurrent",),
    "mqa": ("global_attention",),
}


def synthetic_model(name: ModelName, *, window: int, context_length: int) -> GriffinConfig:
    """window: of Griffin's attention layer; context_length: the most tokens that MQA can hold."""
    return GriffinConfig(
        width=64,
        mlp_width=192,
        num_layers=5,
        lru_width=64,
        num_gate_blocks=16,
        num_heads=4,
        head_dim=16,
        vocab_size=16,
        pattern=PATTERNS[name],
        attention_window=window,
        context_length=context_length,
        a_init="paper",
    )
