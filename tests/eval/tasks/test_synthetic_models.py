# SPDX-License-Identifier: Apache-2.0
"""The sizes that the paper gives."""

import pytest

from eval.tasks.synthetic_models import PATTERNS, synthetic_model
from recurrentgemma.counts import parameter_count


@pytest.mark.parametrize("name", PATTERNS)
def test_sizes(name):
    config = synthetic_model(name, window=128, context_length=256)
    assert (config.num_layers, config.width, config.vocab_size) == (5, 64, 16)
    assert parameter_count(config) == pytest.approx(250_000, rel=0.06)


def test_griffins_attention_is_in_block_3():
    types = synthetic_model("griffin", window=128, context_length=256).block_types
    assert types == ("recurrent", "recurrent", "local_attention", "recurrent", "recurrent")
    assert set(synthetic_model("hawk", window=1, context_length=1).block_types) == {"recurrent"}
    assert set(synthetic_model("mqa", window=1, context_length=1).block_types) == {
        "global_attention"
    }
