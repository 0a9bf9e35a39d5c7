# SPDX-License-Identifier: Apache-2.0
"""Every format to every format and back, bit for bit, in float32 and bfloat16."""

import dataclasses

import jax
import numpy as np
import pytest

from checkpoints import store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint, open_checkpoint
from checkpoints.names import FORMATS
from checkpoints.open_checkpoint import read_params
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params
from tests.checkpoints.conftest import assert_same_bits, random_params, small_config

CONFIGS = {
    "griffin": small_config(),
    "hawk": small_config(pattern=("recurrent",), num_gate_blocks=6, head_dim=4, num_heads=6),
    "bfloat16": small_config(dtype="bfloat16", param_dtype="bfloat16"),
    "attention": small_config(pattern=("local_attention",), num_layers=2),
}


ROUTES = [(there, back, name) for there in FORMATS for back in FORMATS for name in CONFIGS]
ROUTES = [route for route in ROUTES if route[0] == route[1] or route[2] in ("griffin", "bfloat16")]


@pytest.mark.parametrize(("there", "back", "name"), ROUTES)
def test_round_trip(there, back, name, tmp_path):
    config = CONFIGS[name]
    if "deepmind-torch" in (there, back):
        pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    params = random_params(config)
    store.write(tmp_path / "a", dict(params), config)
    convert(tmp_path / "a", tmp_path / "b", there)
    report = convert(tmp_path / "b", tmp_path / "c", back)
    convert(tmp_path / "c", tmp_path / "d", "griffin")
    checkpoint = open_checkpoint(tmp_path / "d")
    assert report.format == there
    assert report.parameters == sum(array.size for array in params.values())
    assert checkpoint.config is not None
    assert checkpoint.config.block_types == config.block_types
    assert checkpoint.config.dtype == config.dtype
    assert checkpoint.config.attention_window == config.attention_window
    assert_same_bits(dict(read_params(checkpoint, config.param_dtype)), params)


@pytest.mark.parametrize("to", FORMATS)
def test_dtype_changes_once_and_rounds_to_nearest(to, tmp_path):
    if to == "deepmind-torch":
        pytest.importorskip("torch", reason="DeepMind's .pt files need torch")
    config = small_config()
    params = random_params(config)
    store.write(tmp_path / "a", dict(params), config)
    convert(tmp_path / "a", tmp_path / "b", to, dtype="bfloat16")
    _, loaded, _ = load_checkpoint(tmp_path / "b")
    assert (loaded.dtype, loaded.param_dtype) == ("bfloat16", "bfloat16")
    rounded = {name: array.astype(jax.numpy.bfloat16) for name, array in params.items()}
    model, _, _ = load_checkpoint(tmp_path / "b")
    assert_same_bits(flat_params(model), rounded)
    # and widening again is exact
    model, wide, _ = load_checkpoint(tmp_path / "b", dtype="float32")
    assert (wide.dtype, wide.param_dtype) == ("float32", "float32")
    assert_same_bits(
        flat_params(model), {name: array.astype(np.float32) for name, array in rounded.items()}
    )
    # reading narrows too, tensor by tensor
    model, _, _ = load_checkpoint(tmp_path / "a", dtype="bfloat16")
    assert_same_bits(flat_params(model), rounded)


def test_scanned_and_unrolled_models_share_a_checkpoint(tmp_path):
    config = small_config(num_layers=5)
    scanned = dataclasses.replace(config, scan_layers=True)
    params = random_params(config)
    store.write(tmp_path / "a", dict(params), config)
    model, loaded, _ = load_checkpoint(tmp_path / "a", scanned)
    assert loaded.scan_layers
    assert_same_bits(flat_params(model), params)
    store.write(tmp_path / "b", dict(flat_params(model)), scanned)
    model, _, _ = load_checkpoint(tmp_path / "b", config)
    assert isinstance(model, Griffin)
    assert_same_bits(flat_params(model), params)


def test_global_attention_is_for_our_own_format_alone(tmp_path):
    config = small_config(pattern=("global_attention",), num_layers=2, context_length=32)
    store.write(tmp_path / "a", random_params(config), config)
    assert load_checkpoint(tmp_path / "a")[1] == config
    for to in ("deepmind-flax", "huggingface"):
        with pytest.raises(ValueError, match="global attention"):
            convert(tmp_path / "a", tmp_path / "b", to)
    assert not (tmp_path / "b").exists()
