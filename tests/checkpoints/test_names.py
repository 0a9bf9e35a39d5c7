# SPDX-License-Identifier: Apache-2.0
"""The table of names: whole, without doubles, and in accord with DeepMind's own rules."""

import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints.names import FORMATS, ROWS, fill_block, rows_by_name, split_block
from checkpoints.open_checkpoint import write_names
from checkpoints.shapes import file_shapes
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


def test_formats_are_these_four():
    assert FORMATS == ("griffin", "deepmind-flax", "deepmind-torch", "huggingface")
    assert jnp.dtype("bfloat16").itemsize == 2
