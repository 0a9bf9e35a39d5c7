# SPDX-License-Identifier: Apache-2.0
"""Tensors on their way to a file and back: turned, fused, and let go."""

import numpy as np

from checkpoints.names import ROWS, fill_block
from checkpoints.open_checkpoint import write_names
from tests.checkpoints.conftest import random_params, small_config


def test_deepminds_linears_are_transposed():
    """Flax keeps [in, out], we and torch [out, in]; a square one would not show it in its shape."""
    config = small_config(mlp_width=136)  # wide enough for three slabs of the copy
    params = random_params(config)
    flax = dict(write_names(dict(params), "deepmind-flax"))
    written = dict(write_names(dict(params), "huggingface"))
    for row in ROWS:
        for block in range(config.num_layers):
            name = fill_block(row.canonical, block)
            if name in params and params[name].ndim == 2 and "conv" not in name:
                theirs = written[fill_block(row.huggingface, block)]
                np.testing.assert_array_equal(theirs, params[name], name)
                if row.kind == "linear":
                    theirs = flax[fill_block(row.flax, block)]
                    np.testing.assert_array_equal(theirs, params[name].T, name)


def test_fused_and_transposed_tensors():
    config = small_config()
    params = random_params(config)
    flax = dict(write_names(dict(params), "deepmind-flax"))
    hf = dict(write_names(dict(params), "huggingface"))
    mlp = "blocks.1/mlp_block/"
    gate, up = params[mlp + "ffw_gate/weight"], params[mlp + "ffw_up/weight"]
    np.testing.assert_array_equal(flax[mlp + "ffw_up/w"], np.stack([gate.T, up.T]))
    bias = params[mlp + "ffw_up/bias"]
    np.testing.assert_array_equal(flax[mlp + "ffw_up/b"][1, 0, 0], bias)
    np.testing.assert_array_equal(hf["model.layers.1.mlp_block.gate_proj.weight"], gate)
    np.testing.assert_array_equal(hf["model.layers.1.mlp_block.up_proj.weight"], up)
    conv = params["blocks.1/recurrent_block/conv_1d/w"]
    theirs = hf["model.layers.1.temporal_block.conv_1d.weight"]
    assert theirs.shape == (36, 1, 4)
    np.testing.assert_array_equal(theirs[:, 0, 3], conv[3], "not flipped: 3 is the current token")


def test_writing_empties_the_parameters():
    params = random_params(small_config())
    for _ in write_names(params, "huggingface"):
        pass
    assert params == {}
