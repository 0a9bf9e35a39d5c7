# SPDX-License-Identifier: Apache-2.0
"""The Griffin of the studies has the size that they say."""

import pytest

from recurrentgemma.counts import parameter_count
from training.small_griffin import small_griffin


def test_its_size():
    config = small_griffin(192, 6, vocab_size=256, window=128)
    assert parameter_count(config) == pytest.approx(3e6, rel=0.2)
    assert config.block_types.count("local_attention") == 2


def test_a_width_that_four_heads_do_not_divide():
    with pytest.raises(ValueError, match="width"):
        small_griffin(190, 6, vocab_size=256, window=128)
