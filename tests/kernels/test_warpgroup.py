# SPDX-License-Identifier: Apache-2.0
"""How the GPU kernels cut their work, and what enters each part."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels import warpgroup
from tests.kernels.compare import draw


def test_segments_fill_the_multiprocessors():
    """Only sequences of which too few run side by side are cut, into whole tiles of any kernel."""
    for batch, time, width, count in (
        (8, 2048, 2560, 1),
        (64, 1024, 4096, 1),
        (1, 131072, 2560, 13),
        (1, 131072, 128, 32),
        (1, 100, 128, 1),
    ):
        length = warpgroup.segment_length(batch, time, width)
        assert warpgroup.segments(time, length) == count
        assert length % warpgroup.ROWS == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_a_state_through_segments(reverse):
    """Each turns h into a h + b, one after the other; all of them are one such step."""
    a_BNE, b_BNE, h_BE = draw(0, 2, 3, 5), draw(1, 2, 3, 5), draw(2, 2, 5)
    entering_BNE, last_BE = warpgroup.enter(a_BNE, b_BNE, h_BE, reverse=reverse)
    h = np.asarray(h_BE)
    for n in (2, 1, 0) if reverse else (0, 1, 2):
        np.testing.assert_allclose(entering_BNE[:, n], h, rtol=1e-5)
        h = np.asarray(a_BNE[:, n]) * h + np.asarray(b_BNE[:, n])
    np.testing.assert_allclose(last_BE, h, rtol=1e-5)
    a_BE, b_BE = warpgroup.compose(a_BNE, b_BNE, reverse=reverse)
    np.testing.assert_allclose(a_BE * h_BE + b_BE, h, rtol=1e-4, atol=1e-5)


def test_rows_that_shared_memory_has_room_for():
    narrow, wide = (jnp.zeros((1, 64, 128), dtype) for dtype in ("bfloat16", "float32"))
    for reads, writes in (([narrow], 1), ([wide] * 3, 1), ([wide] * 6, 4)):
        rows = warpgroup.tile_rows(reads, writes)
        assert warpgroup.GROUP <= rows <= warpgroup.ROWS
        itemsize = jnp.dtype(reads[0].dtype).itemsize
        stages = warpgroup.STAGES * len(reads) + warpgroup.OUT_STAGES * writes
        held = rows * stages * warpgroup.CHANNELS * itemsize
        assert held <= warpgroup.SHARED or rows == warpgroup.GROUP  # the fewest
        assert rows == warpgroup.ROWS or 2 * held > warpgroup.SHARED
