# SPDX-License-Identifier: Apache-2.0
"""The Griffin that studies and benchmarks train in minutes."""

from recurrentgemma.config import GriffinConfig


def small_griffin(width: int, layers: int, *, vocab_size: int, window: int) -> GriffinConfig:
    """Two recurrent blocks, then one of attention, in turn; every inner width follows from `width`,
    which four heads divide. 192 wide and 6 layers high it has about 3 million parameters.

    Raises ValueError: see GriffinConfig.
    """
    return GriffinConfig(
        width=width,
        mlp_width=3 * width,
        num_layers=layers,
        lru_width=width,
        num_gate_blocks=4,
        num_heads=4,
        head_dim=width // 4,
        vocab_size=vocab_size,
        attention_window=window,
    )
