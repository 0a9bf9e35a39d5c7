# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's format: shards, the copied head, config.json, and everything that can be wrong."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import huggingface
from checkpoints.convert import convert
from checkpoints.huggingface_json import config_from_json
from checkpoints.load import load_checkpoint, open_source
from checkpoints.source import read_params
from tests.checkpoints.conftest import assert_same_bits, random_params, small_config

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def stored(tmp_path) -> Path:
    config = small_config()
    huggingface.write(tmp_path / "hf", random_params(config), config)
    return tmp_path / "hf"


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **fields) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | fields))


def test_shards_and_their_index(tmp_path, stored):
    config = small_config()
    huggingface.write(tmp_path / "shards", random_params(config), config, shard_bytes=20_000)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    one, many = open_source(stored), open_source(tmp_path / "shards")
    assert index["metadata"]["total_size"] == sum(
        4 * int(np.prod(spec.shape)) for spec in one.specs.values()
    )
    assert_same_bits(dict(read_params(many, "float32")), dict(read_params(one, "float32")))


def test_one_file_alone_needs_its_config(stored):
    file = stored / "model.safetensors"
    assert load_checkpoint(file)[1] == small_config()
    (stored / "config.json").unlink()
    with pytest.raises(ValueError, match=r"attention_window, logits_soft_cap.*pass config="):
        load_checkpoint(file)
    model, _, _ = load_checkpoint(file, small_config())
    assert model.config == small_config()


def test_a_config_that_contradicts_the_checkpoints_own(stored):
    config = small_config()
    wrong = dataclasses.replace(config, attention_window=config.attention_window + 1)
    with pytest.raises(ValueError, match=r"its own config says attention_window=.*, the config"):
        load_checkpoint(stored, wrong)
    with pytest.raises(ValueError, match="config is 'tiny': expected a GriffinConfig"):
        load_checkpoint(stored, "tiny")  # type: ignore[arg-type]
    free = dataclasses.replace(config, scan_layers=True, remat="block")
    assert load_checkpoint(stored, free)[1] == free


def test_others_may_read_what_is_written(stored):
    modes = {path.stat().st_mode & 0o777 for path in stored.iterdir() if path.is_file()}
    assert len(modes) == 1  # those of any file that this process makes


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


def test_an_equal_head_is_dropped_and_another_is_an_error(stored):
    change_tensors(stored, lambda t: t.update({"lm_head.weight": t[EMBEDDING].copy()}))
    expected = random_params(small_config())
    assert_same_bits(dict(read_params(open_source(stored), "float32")), expected)

    def untie(tensors):
        tensors["lm_head.weight"][-1, -1] += 1

    change_tensors(stored, untie)
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs from 'model.embed_tokens.w"):
        load_checkpoint(stored)
    change_tensors(stored, lambda t: t.update({"lm_head.weight": t[EMBEDDING][:-1].copy()}))
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs .*\(49, 24\)"):
        open_source(stored)


def test_a_large_head_is_compared_to_the_end(stored, monkeypatch):
    monkeypatch.setattr(huggingface, "MAPPED_BYTES", 1000)
    test_an_equal_head_is_dropped_and_another_is_an_error(stored)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_a_truncated_file_is_named(stored, keep):
    file = stored / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    for path in (stored, file):
        with pytest.raises(ValueError, match=r"model\.safetensors: truncated"):
            load_checkpoint(path)


def test_shards_that_disagree_with_their_index(tmp_path):
    config = small_config()
    folder = tmp_path / "hf"
    huggingface.write(folder, random_params(config), config, shard_bytes=20_000)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    name, file = next(iter(good["weight_map"].items()))
    wrong = {**good["weight_map"], "model.layers.99.x": file}
    index.write_text(json.dumps({"weight_map": wrong}))
    with pytest.raises(ValueError, match=rf"'model.layers.99.x' is in {file}; it is not"):
        open_source(folder)
    index.write_text(json.dumps(good))
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}: missing"):
        open_source(folder)
    index.write_text(index.read_text()[:50])
    with pytest.raises(ValueError, match=r"index\.json: not a JSON file"):
        open_source(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="weight_map"):
        open_source(folder)
    assert name == EMBEDDING


LAYER = "model.layers.1.temporal_block.linear_x.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(LAYER), f"missing tensor '{LAYER}'"),
        (lambda t: t.update(more=t[LAYER]), "unexpected tensor 'more'"),
        (
            lambda t: t.update({LAYER: t[LAYER].T.copy()}),
            rf"'{LAYER}' has shape \(24, 36\), the config expects \(36, 24\): lru_width: 36 in the "
            "config, 24 in the file",
        ),
        (
            lambda t: t.update({LAYER: t[LAYER].reshape(-1)}),
            rf"'{LAYER}' has shape \(864,\), the config expects \(36, 24\), which is "
            r"\(lru_width, width\)",
        ),
        (
            lambda t: t.update({EMBEDDING: np.zeros((64, 24), np.float32)}),
            r"shape \(64, 24\), the config expects \(50, 24\): vocab_size: 50 in the config, 64 in "
            "the file; rows beyond the vocabulary are not cut off: set vocab_size",
        ),
        (
            lambda t: [t.pop(n) for n in list(t) if ".layers.3." in n],
            "the config says num_layers=4, the file holds 3 blocks",
        ),
        (
            lambda t: t.update({LAYER: t[LAYER].astype(np.int32)}),
            f"tensor '{LAYER}' is stored as I32; expected one of float32, bfloat16",
        ),
    ],
    ids=["missing", "extra", "misshapen", "rank", "rows", "depth", "integers"],
)
def test_tensors_that_contradict_the_config(stored, change, message):
    change_tensors(stored, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(stored)


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


def test_float16_is_widened(stored):
    change_tensors(
        stored, lambda t: t.update({n: a.astype(np.float16) for n, a in list(t.items())})
    )
    model, config, _ = load_checkpoint(stored)
    assert (config.dtype, config.param_dtype) == ("float32", "float32")
    assert model.embedder.input_embedding[...].dtype == np.float32


def test_a_hawk_keeps_its_gate_blocks(tmp_path):
    config = small_config(pattern=("recurrent",), num_gate_blocks=9, num_heads=3, head_dim=8)
    huggingface.write(tmp_path / "hf", random_params(config), config)
    loaded = config_from_json(tmp_path / "hf" / "config.json", "float32")
    assert loaded == dataclasses.replace(config, num_heads=9)


def test_generation_config_and_token_ids_travel(tmp_path, stored):
    (stored / "generation_config.json").write_text('{"eos_token_id": [1, 7], "temperature": 0.5}')
    change_config(stored, bos_token_id=5)
    convert(stored, tmp_path / "copy", "huggingface")
    generation = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [1, 7], "temperature": 0.5}
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["bos_token_id"] == 5


@pytest.mark.parametrize("value", ["24", None, [24]], ids=repr)
def test_a_config_json_with_another_type_is_named(stored, value):
    change_config(stored, hidden_size=value)
    with pytest.raises(ValueError, match=r"config\.json: "):
        load_checkpoint(stored)
