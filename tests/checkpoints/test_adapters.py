# SPDX-License-Identifier: Apache-2.0
"""Adapters as PEFT keeps them: names, shapes, merged into a base of any format, and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import adapters, store
from checkpoints.adapters import Adapters
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint, open_adapters
from checkpoints.open_checkpoint import Damaged
from recurrentgemma.params import flat_params
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import random_params, small_adapters, small_config

CONFIG = small_config()
LAYER = "blocks.0/mlp_block/ffw_up"


def test_what_peft_reads(tmp_path: Path):
    lora = small_adapters("google/recurrentgemma-2b")
    adapters.write(tmp_path / "peft", lora)
    config_json = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert (config_json["peft_type"], config_json["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config_json["r"], config_json["lora_alpha"], config_json["bias"]) == (2, 3, "none")
    assert config_json["base_model_name_or_path"] == "google/recurrentgemma-2b"
    assert "model.layers.0.temporal_block.linear_x" in config_json["target_modules"]
    assert len(config_json["target_modules"]) == len(lora.pairs)
    tensors = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert len(tensors) == 2 * len(lora.pairs)
    a, b = lora.pairs[LAYER]
    name = "base_model.model.model.layers.0.mlp_block.up_proj"
    np.testing.assert_array_equal(tensors[f"{name}.lora_A.weight"], a.T)
    np.testing.assert_array_equal(tensors[f"{name}.lora_B.weight"], b.T)
    again = adapters.read(tmp_path / "peft")
    assert (again.rank, again.alpha, again.base) == (2, 3.0, lora.base)
    assert again.flat().keys() == lora.flat().keys()
    for key, value in again.flat().items():
        np.testing.assert_array_equal(value, lora.flat()[key])


@pytest.mark.parametrize("fmt", ["griffin", "huggingface", "deepmind-flax"])
def test_merged_into_a_base_of_any_format(base: Path, tmp_path: Path, fmt):
    convert(base, tmp_path / "other", fmt)
    lora = small_adapters(str(tmp_path / "other"))
    adapters.write(tmp_path / "peft", lora)
    convert(tmp_path / "other", tmp_path / "out", "huggingface", adapters=tmp_path / "peft")
    got = flat_params(load_checkpoint(tmp_path / "out")[0])
    for name, weight in random_params(CONFIG).items():
        want = weight
        if name.endswith("/weight"):
            a, b = lora.pairs[name.removesuffix("/weight")]
            want = weight + 1.5 * (a.astype(np.float64) @ b).T
        np.testing.assert_allclose(got[name], want, rtol=2e-6, atol=2e-6)
    opened = flat_params(load_checkpoint(tmp_path / "peft")[0])  # it says where its base is
    for name, value in opened.items():
        np.testing.assert_array_equal(value, got[name])


def test_weights_are_rounded_once(base: Path, tmp_path: Path):
    adapters.write(tmp_path / "peft", small_adapters(str(base)))
    whole = flat_params(load_checkpoint(tmp_path / "peft")[0])
    narrow = flat_params(load_checkpoint(tmp_path / "peft", dtype="bfloat16")[0])
    for name, value in whole.items():
        np.testing.assert_array_equal(value.astype("bfloat16"), narrow[name])


def test_a_run_that_trained_adapters_is_opened_like_any_other(base: Path, tmp_path: Path):
    lora = small_adapters(str(base))
    train = {"init_from": str(base), "lora": {"rank": 2, "alpha": 3.0, "layers": ".*"}}
    store.write_run_config(tmp_path / "run", CONFIG, train)
    run_steps.save(tmp_path / "run", 7, lora.flat())
    adapters.write(tmp_path / "peft", lora)
    got = flat_params(load_checkpoint(tmp_path / "run")[0])
    for name, value in flat_params(load_checkpoint(tmp_path / "peft")[0]).items():
        np.testing.assert_array_equal(value, got[name])
    read, config = open_adapters(tmp_path / "run/checkpoints/7")
    assert (read.rank, config) == (2, CONFIG)
    base.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"base'?, is not here; .*`griffin merge BASE .*run OUT`"):
        load_checkpoint(tmp_path / "run")
    convert(tmp_path / "moved", tmp_path / "out", "griffin", adapters=tmp_path / "run")
    for name, value in flat_params(load_checkpoint(tmp_path / "out")[0]).items():
        np.testing.assert_array_equal(value, got[name])


def test_a_run_that_does_not_say_its_base(tmp_path: Path):
    store.write_run_config(tmp_path / "run", CONFIG, {})
    run_steps.save(tmp_path / "run", 1, small_adapters("").flat())
    with pytest.raises(ValueError, match='expected "init_from" and "lora" under "train"'):
        load_checkpoint(tmp_path / "run")


def test_adapters_of_another_model(base: Path, tmp_path: Path):
    lora = small_adapters(str(base))
    pair = lora.pairs[LAYER]
    for layer, wrong, message in (
        ("blocks.99/mlp_block/ffw_up", pair, "'blocks.99/mlp_block/ffw_up' .* is not a layer of"),
        (LAYER, (pair[0][:5], pair[1]), r"5\] is \["),
    ):
        folder = tmp_path / str(len(layer))
        adapters.write(folder, Adapters(folder, {layer: wrong}, 2, 3.0, str(base)))
        with pytest.raises(ValueError, match=message):
            load_checkpoint(folder)


def test_what_is_not_a_plain_lora(base: Path, tmp_path: Path):
    folder = tmp_path / "peft"
    adapters.write(folder, small_adapters(str(base)))
    file = folder / "adapter_config.json"
    config_json = json.loads(file.read_text())

    def refused(message: str, **changed: object) -> None:
        file.write_text(json.dumps(config_json | changed))
        with pytest.raises(ValueError, match=message):
            adapters.read(folder)

    refused("peft_type='IA3': expected 'LORA'", peft_type="IA3")
    refused("use_rslora=True: .* Only a plain LoRA", use_rslora=True)
    refused("rank_pattern=.*merge_and_unload", rank_pattern={"up_proj": 3})
    refused(
        "init_lora_weights='pissa': PiSSA changes the base's weights", init_lora_weights="pissa"
    )
    refused("r=None: expected a whole number", r=None)
    refused("r=5 in adapter_config.json, 2 in adapter_model", r=5)
    file.write_text(json.dumps(config_json))
    with pytest.raises(ValueError, match="exists already"):
        adapters.write(folder, small_adapters(str(base)))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = "base_model.model.model.layers.0.mlp_block.up_proj.lora_A.weight"
    save_file({n: t for n, t in tensors.items() if n != name}, weights)
    with pytest.raises(Damaged, match="is not one of a pair"):
        adapters.read(folder)
    save_file({**tensors, "base_model.model.lm_head.lora_A.weight": tensors[name]}, weights)
    with pytest.raises(ValueError, match="is no adapter of a linear layer"):
        adapters.read(folder)
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(Damaged, match="truncated"):
        adapters.read(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin: a pickle .* save_file\(torch\.load"):
        adapters.read(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(Damaged, match="missing"):
        adapters.read(folder)
    with pytest.raises(ValueError, match="holds no adapters; expected"):
        open_adapters(tmp_path)
