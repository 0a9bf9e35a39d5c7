# SPDX-License-Identifier: Apache-2.0
"""The table of names: whole, without doubles, and in accord with DeepMind's own rules."""

import numpy as np
import pytest

from checkpoints.names import FORMATS, ROWS, fill_block, rows_by_name, split_block
from checkpoints.shapes import file_shapes
from checkpoints.source import write_names
from recurrentgemma.parameters import param_shapes
from tests.checkpoints.conftest import random_params, small_config


def test_every_parameter_has_a_row_and_every_row_a_parameter():
    templates = {split_block(name)[0] for name in param_shapes(small_config())}
    assert {row.canonical for row in ROWS} == templates


@pytest.mark.parametrize("fmt", FORMATS)
def test_names_lead_back(fmt):
    for template, rows in rows_by_name(fmt).items():
        assert split_block(fill_block(template, 12)) == (
            (template, 12) if "{i}" in template else (template, None)
        )
        assert {row.name(fmt) for row in rows} == {template}


@pytest.mark.parametrize("fmt", FORMATS)
def test_shapes_are_those_written(fmt):
    config = small_config()
    written = {name: array.shape for name, array in write_names(random_params(config), fmt)}
    assert written == file_shapes(config, fmt)


def test_deepmind_torch_names_follow_deepminds_rule():
    """conversion.py: dots for slashes, `weight` for `kernel`, 2-D weights transposed."""
    config = small_config()
    flax = dict(write_names(random_params(config), "deepmind-flax"))
    torch = dict(write_names(random_params(config), "deepmind-torch"))
    for name, array in flax.items():
        theirs = name.replace("/", ".").replace("kernel", "weight")
        transposed = theirs.endswith("weight") and array.ndim == 2
        np.testing.assert_array_equal(torch.pop(theirs), array.T if transposed else array)
    assert not torch


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
