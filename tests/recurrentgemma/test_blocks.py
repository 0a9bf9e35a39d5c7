# SPDX-License-Identifier: Apache-2.0
"""The blocks' initial parameters."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params
from tests.drawn import untrained


@pytest.mark.parametrize(
    "make", [lambda config: Griffin(config, rngs=nnx.Rngs(0)), untrained], ids=["ours", "of tests"]
)
def test_initial_standard_deviations(make):
    """DeepMind's JAX code: fan-in over the block axis of the gates, both MLP branches counted."""
    config = dataclasses.replace(rg.tiny(), num_layers=3)
    flat = flat_params(make(config))
    expected = {
        "embedder/input_embedding": 256**-0.5,
        "blocks.0/recurrent_block/linear_x/weight": 256**-0.5,
        "blocks.0/recurrent_block/linear_out/weight": (2 / 3 / 256) ** 0.5,
        "blocks.0/recurrent_block/conv_1d/w": 0.05,
        "blocks.0/recurrent_block/rg_lru/a_gate/w": 256**-0.5,
        "blocks.0/recurrent_block/rg_lru/input_gate/w": 256**-0.5,
        "blocks.2/attention_block/proj_k/weight": 256**-0.5,
        "blocks.2/attention_block/proj_final/weight": (2 / 3 / 256) ** 0.5,
        "blocks.0/mlp_block/ffw_gate/weight": (2 * 256) ** -0.5,
        "blocks.0/mlp_block/ffw_up/weight": (2 * 256) ** -0.5,
        "blocks.0/mlp_block/ffw_down/weight": (2 / 3 / 768) ** 0.5,
    }
    for name, std in expected.items():
        assert np.std(flat[name]) == pytest.approx(std, rel=0.05), name
    assert not any(np.any(flat[name]) for name in flat if name.endswith(("scale", "bias", "/b")))
