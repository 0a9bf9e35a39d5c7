# SPDX-License-Identifier: Apache-2.0
"""The published models as functions: Griffin, Hawk and MQA of the Griffin paper, RecurrentGemma.

Griffin paper, table 2 (appendix C): widths, recurrence widths, depths and heads; head size 128,
16 gate blocks and window 1024 (section 2 and 4.1). Its vocabulary is not stated: ours is Gemma's.
RecurrentGemma paper, table 1, and its code for what the paper leaves out (soft cap, W + 1 keys).
"""

import dataclasses
from collections.abc import Callable

from recurrentgemma.config import BlockType, GriffinConfig
from recurrentgemma.errors import UserError, did_you_mean

GRIFFIN: tuple[BlockType, ...] = ("recurrent", "recurrent", "local_attention")
HAWK: tuple[BlockType, ...] = ("recurrent",)
MQA: tuple[BlockType, ...] = ("global_attention",)


def _paper(width: int, lru_width: int, depth: int, pattern: tuple[BlockType, ...]) -> GriffinConfig:
    return GriffinConfig(
        width=width,
        mlp_width=3 * width,
        num_layers=depth,
        lru_width=lru_width,
        num_gate_blocks=16,
        num_heads=width // 128,
        head_dim=128,
        attention_window=1024,
        pattern=pattern,
    )


def griffin_100m() -> GriffinConfig:
    return _paper(768, 1024, 12, GRIFFIN)


def griffin_200m() -> GriffinConfig:
    return _paper(1024, 1536, 12, GRIFFIN)


def griffin_400m() -> GriffinConfig:
    return _paper(1536, 2048, 12, GRIFFIN)


def griffin_1b() -> GriffinConfig:
    return _paper(2048, 2560, 24, GRIFFIN)


def griffin_3b() -> GriffinConfig:
    return _paper(3072, 4096, 24, GRIFFIN)


def griffin_7b() -> GriffinConfig:
    return _paper(4096, 5632, 32, GRIFFIN)


def griffin_14b() -> GriffinConfig:
    return _paper(5120, 8192, 40, GRIFFIN)


def hawk_100m() -> GriffinConfig:
    return _paper(768, 1024, 12, HAWK)


def hawk_200m() -> GriffinConfig:
    return _paper(1024, 1536, 12, HAWK)


def hawk_400m() -> GriffinConfig:
    return _paper(1536, 2048, 12, HAWK)


def hawk_1b() -> GriffinConfig:
    return _paper(2048, 2560, 24, HAWK)


def hawk_3b() -> GriffinConfig:
    return _paper(3072, 4096, 24, HAWK)


def hawk_7b() -> GriffinConfig:
    return _paper(4096, 5632, 32, HAWK)


def mqa_100m() -> GriffinConfig:
    return _paper(768, 1024, 12, MQA)


def mqa_200m() -> GriffinConfig:
    return _paper(1024, 1536, 12, MQA)


def mqa_400m() -> GriffinConfig:
    return _paper(1536, 2048, 12, MQA)


def mqa_1b() -> GriffinConfig:
    return _paper(2048, 2560, 24, MQA)


def mqa_3b() -> GriffinConfig:
    return _paper(3072, 4096, 24, MQA)


def mqa_7b() -> GriffinConfig:
    return _paper(4096, 5632, 32, MQA)


def recurrentgemma_2b() -> GriffinConfig:
    """2,682,862,080 parameters, 26 layers: the tail is two recurrent blocks."""
    return GriffinConfig(
        width=2560,
        mlp_width=7680,
        num_layers=26,
        lru_width=2560,
        num_gate_blocks=10,
        num_heads=10,
        head_dim=256,
        attention_window=2048,
        scale_embeddings=True,
        logits_soft_cap=30.0,
    )


def recurrentgemma_9b() -> GriffinConfig:
    """8,579,977,216 parameters, 38 layers: the tail is two recurrent blocks."""
    return dataclasses.replace(
        recurrentgemma_2b(),
        width=4096,
        mlp_width=12288,
        num_layers=38,
        lru_width=4096,
        num_gate_blocks=16,
        num_heads=16,
    )


def tiny() -> GriffinConfig:
    """6.9M parameters, shaped like RecurrentGemma: for tests, benchmarks and first steps."""
    return dataclasses.replace(
        recurrentgemma_2b(),
        vocab_size=8192,
        width=256,
        mlp_width=768,
        num_layers=6,
        lru_width=256,
        num_gate_blocks=4,
        num_heads=4,
        head_dim=64,
        attention_window=256,
    )


PRESETS: dict[str, Callable[[], GriffinConfig]] = {
    function.__name__: function
    for function in (
        *(griffin_100m, griffin_200m, griffin_400m, griffin_1b, griffin_3b, griffin_7b),
        *(griffin_14b, hawk_100m, hawk_200m, hawk_400m, hawk_1b, hawk_3b, hawk_7b),
        *(mqa_100m, mqa_200m, mqa_400m, mqa_1b, mqa_3b, mqa_7b),
        *(recurrentgemma_2b, recurrentgemma_9b, tiny),
    )
}


def preset(name: str) -> GriffinConfig:
    """The configuration of a preset by name.

    Raises:
      ValueError: no preset has this name; the message lists them.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS)
        raise UserError(f"unknown preset {name!r}{hint}; the presets are: {', '.join(PRESETS)}")
    return PRESETS[name]()
