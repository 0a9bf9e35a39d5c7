# SPDX-License-Identifier: Apache-2.0
"""A model and rows of documents small enough to train over eight fake devices, in every way."""

import numpy as np

from recurrentgemma.config import GriffinConfig

CONFIG = GriffinConfig(
    vocab_size=64,
    width=32,
    mlp_width=96,
    num_layers=2,
    pattern=("recurrent", "local_attention"),
    lru_width=32,
    num_gate_blocks=4,
    num_heads=4,
    head_dim=8,
    attention_window=9,
    scale_embeddings=True,
    logits_soft_cap=30.0,
)
BATCH, TIME = 8, 48


def positions_of(step: int) -> np.ndarray:
    """Of documents that begin just before, on and just after the cuts of a sequence over two, four
    and eight devices, of one token and longer than a part; other ones in every row and step."""
    starts = {0, 5, 6, 7, 11, 12, 13, 23, 24, 25, 29, 30, 31}
    positions_BT = np.zeros((BATCH, TIME), np.int32)
    for row in range(BATCH):
        count = 0
        for t in range(TIME):
            count = 0 if t in starts and (row + step) % 3 != t % 3 else count
            positions_BT[row, t] = count
            count += 1
    return positions_BT
