# SPDX-License-Identifier: Apache-2.0
"""adapter_config.json: each field of PEFT's LoraConfig, and each way to start, taken or refused by
name. `tests/peers/adapters.py` compares these tables with the real PEFT."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from checkpoints.peft_json import lora_json, not_plain, read_lora

# PEFT 0.21.2's LoraConfig(): what save_pretrained writes of it.
DEFAULTS: dict[str, Any] = {
    "task_type": None,
    "peft_type": "LORA",
    "auto_mapping": None,
    "peft_version": "0.21.2",
    "base_model_name_or_path": None,
    "revision": None,
    "inference_mode": False,
    "r": 8,
    "target_modules": None,
    "exclude_modules": None,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "fan_in_fan_out": False,
    "bias": "none",
    "use_rslora": False,
    "modules_to_save": None,
    "init_lora_weights": True,
    "layers_to_transform": None,
    "layers_pattern": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "trainable_token_indices": None,
    "loftq_config": {},
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "use_dora": False,
    "velora_config": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "qalora_group_size": 16,
    "monteclora_config": None,
    "layer_replication": None,
    "lora_bias": False,
    "target_parameters": None,
    "use_bdlora": None,
    "arrow_config": None,
    "kasa_config": None,
    "ensure_weight_tying": False,
}
TAKEN: dict[str, Any] = {  # another value than the default, which changes no tensor's meaning
    "task_type": "CAUSAL_LM",
    "auto_mapping": {"base_model_class": "RecurrentGemmaForCausalLM"},
    "peft_version": "0.15.0",
    "base_model_name_or_path": "google/recurrentgemma-2b",
    "revision": "main",
    "inference_mode": True,
    "r": 4,
    "target_modules": ["linear_x"],
    "exclude_modules": "up_proj",
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "layers_to_transform": [0, 1],
    "layers_pattern": "layers",
    "megatron_core": "megatron",
    "loftq_config": {"loftq_bits": 4, "loftq_iter": 1},
    "eva_config": {"rho": 2.0},
    "corda_config": {"corda_method": "ipm"},
    "lora_ga_config": {"direction": "ArB2r"},
    "qalora_group_size": 32,
    "ensure_weight_tying": True,
    "runtime_config": {"ephemeral_gpu_offload": True},  # of files that were written by hand
}
REFUSED: dict[str, Any] = {
    "fan_in_fan_out": True,
    "bias": "lora_only",
    "use_rslora": True,
    "modules_to_save": ["embed_tokens"],
    "rank_pattern": {"up_proj": 4},
    "alpha_pattern": {"up_proj": 4},
    "megatron_config": {"hidden_size": 64},
    "trainable_token_indices": [1, 2],
    "use_dora": True,
    "alora_invocation_tokens": [106, 1645],
    "use_qalora": True,
    "monteclora_config": {"num_samples": 4},
    "layer_replication": [[0, 4], [2, 5]],
    "lora_bias": True,
    "target_parameters": ["rg_lru.input_gate_weight"],
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 3},
    "velora_config": {"num_groups": 64},
    "kasa_config": {"beta": 0.1},
}
INIT_TAKEN = (True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica")
INIT_REFUSED = ("pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "another")


def test_the_tables_hold_every_field():
    assert TAKEN.keys() | REFUSED.keys() == DEFAULTS.keys() - {
        "peft_type",
        "init_lora_weights",
    } | {"runtime_config"}
    assert not_plain(DEFAULTS) == []


@pytest.mark.parametrize("field", TAKEN)
def test_taken(field):
    assert not_plain(DEFAULTS | {field: TAKEN[field]}) == []


@pytest.mark.parametrize("field", REFUSED)
def test_refused_by_name(field):
    [problem] = not_plain(DEFAULTS | {field: REFUSED[field]})
    assert problem.startswith(f"{field}={REFUSED[field]!r}: ")
    assert ("merge_and_unload" in problem) == (field != "alora_invocation_tokens")
    assert not_plain(DEFAULTS | {field: None}) == []  # as older versions of PEFT leave it


@pytest.mark.parametrize("value", INIT_TAKEN)
def test_starts_that_leave_the_base_alone(value):
    assert not_plain(DEFAULTS | {"init_lora_weights": value}) == []


@pytest.mark.parametrize("value", INIT_REFUSED)
def test_starts_that_change_the_base(value):
    [problem] = not_plain(DEFAULTS | {"init_lora_weights": value})
    assert problem.startswith(f"init_lora_weights={value!r}: ")
    assert ("changes the base's weights before training" in problem) == (value != "another")


@pytest.mark.parametrize("off", [None, False, "", [], {}])
def test_a_field_of_a_newer_peft(off):
    assert not_plain(DEFAULTS | {"use_tomorrow": off}) == []
    [problem] = not_plain(DEFAULTS | {"use_tomorrow": 0.5})
    assert problem.startswith("use_tomorrow=0.5: a field of a newer PEFT")


def test_the_file(tmp_path: Path):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(DEFAULTS | {"base_model_name_or_path": "there"}))
    assert read_lora(file) == (8, 8.0, "there")
    file.write_text(json.dumps(lora_json(4, 3.5, "", ["b", "a"])))
    assert read_lora(file) == (4, 3.5, "")
    for change, message in (
        ({"peft_type": "IA3"}, "peft_type='IA3': expected 'LORA'"),
        *(({"r": rank}, f"r={rank!r}: expected a wh") for rank in (None, 0, -1, True, 8.5, "8")),
        *(({"lora_alpha": a}, "lora_alpha=.*: expected a") for a in (None, "16", True, math.nan)),
        ({"lora_alpha": math.inf}, "lora_alpha=inf: expected a number"),
        ({"base_model_name_or_path": ["a"]}, r"base_model_name_or_path=\['a'\]: expected a text"),
        ({"revision": 5}, "revision=5: expected a text"),
        ({"use_dora": True, "bias": "all"}, "bias='all': .*; use_dora=True: DoRA.* Only a plain"),
    ):
        file.write_text(json.dumps(DEFAULTS | change))
        with pytest.raises(ValueError, match=rf"adapter_config\.json: {message}"):
            read_lora(file)
