# SPDX-License-Identifier: Apache-2.0
"""transformers' config.json, there and back, and everything that can be wrong in it."""

import dataclasses
import json
import math

import pytest

from checkpoints import huggingface
from checkpoints.huggingface_json import config_from_json
from checkpoints.load import load_checkpoint
from recurrentgemma.errors import UserError
from tests.checkpoints.conftest import change_config, random_params, small_config


def test_what_config_json_says(stored):
    content = json.loads((stored / "config.json").read_text())
    assert content["intermediate_size"] == 2 * 40
    assert content["block_types"] == ["recurrent", "recurrent", "attention"]
    assert content["num_key_value_heads"] == 1
    assert content["rope_parameters"]["partial_rotary_factor"] == 0.5
    assert content["dtype"] == "float32"
    generation = json.loads((stored / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (2, 1)


def test_config_json_as_the_released_files_have_it(stored):
    """Before transformers 5, rope_theta and partial_rotary_factor stood at the top."""
    content = json.loads((stored / "config.json").read_text())
    del content["rope_parameters"], content["dtype"], content["head_dim"]
    content |= {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "torch_dtype": "float32"}
    (stored / "config.json").write_text(json.dumps(content))
    assert load_checkpoint(stored)[1] == small_config()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 27}, r"'model.embed_tokens.weight' .*width: 27 in the config, 24 in the"),
        ({"intermediate_size": 100}, "mlp_width: 50 in the config, 40 in the file"),
        ({"lru_width": 72}, "lru_width: 72 in the config, 36 in the file"),
        ({"num_hidden_layers": 5}, "num_layers=5, the file holds 4 blocks"),
        ({"block_types": ["recurrent", "attention"]}, "pattern makes block 1 local_attention"),
        ({"num_attention_heads": 6, "head_dim": 4}, "num_gate_blocks: 6 in the config, 3 in the"),
        ({"head_dim": 16}, r"num_heads \* head_dim: 48 in the config, 24 in the file"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; RecurrentGemma has 1, always"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"rope_parameters": {"rope_theta": 500.0}}, "rope_theta is 500.0"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"block_types": ["mamba"]}, "block type 'mamba'"),
        ({"intermediate_size": 81}, "intermediate_size=81 is odd"),
        ({"logits_soft_cap": -1.0}, "logits_soft_cap=-1.0"),
    ],
    ids=str,
)
def test_a_config_json_that_is_wrong(stored, fields, message):
    change_config(stored, **fields)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(stored)


def test_a_config_json_that_lacks_something(stored):
    content = json.loads((stored / "config.json").read_text())
    del content["attention_window_size"]
    (stored / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json: lacks attention_window_size"):
        load_checkpoint(stored)
    (stored / "config.json").write_text('{"model_type": "recurr')
    with pytest.raises(ValueError, match=r"config\.json: not a JSON file"):
        load_checkpoint(stored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_embeddings": False}, r"always scales embeddings \(scale_embeddings=False\)"),
        ({"logits_soft_cap": None}, r"always caps logits \(logits_soft_cap=None\)"),
        ({"num_gate_blocks": 9}, "num_gate_blocks=9 must be num_heads=3"),
        ({"head_dim": 4}, "num_heads=3 times head_dim=4 must be width=24"),
    ],
    ids=str,
)
def test_a_model_that_transformers_cannot_run_is_not_written(tmp_path, changes, message):
    config = small_config(**changes)
    with pytest.raises(ValueError, match=message):
        huggingface.write(tmp_path / "hf", random_params(config), config)
    assert not (tmp_path / "hf").exists()


def test_a_hawk_keeps_its_gate_blocks(tmp_path):
    config = small_config(pattern=("recurrent",), num_gate_blocks=9, num_heads=3, head_dim=8)
    huggingface.write(tmp_path / "hf", random_params(config), config)
    loaded = config_from_json(tmp_path / "hf" / "config.json", "float32")
    assert loaded == dataclasses.replace(config, num_heads=9)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "24"),
        ("hidden_size", None),
        ("num_attention_heads", 0),
        ("num_hidden_layers", 2.0),
        ("intermediate_size", [24]),
        ("head_dim", math.inf),
        ("block_types", 3),
        ("block_types", [["recurrent"]]),
        ("rope_parameters", [10_000]),
    ],
)
def test_a_config_json_with_another_type_is_named(stored, field, value):
    change_config(stored, **{field: value})
    with pytest.raises(UserError, match=rf"config\.json: (block type|{field}).* expected"):
        load_checkpoint(stored)
