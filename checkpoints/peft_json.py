# SPDX-License-Identifier: Apache-2.0
"""PEFT's adapter_config.json, read and written: what it may say of a plain LoRA, and the rest by
name.

A plain LoRA is W + lora_alpha / r (B A) of linear layers, on weights that training left alone. The
tables below hold every field of PEFT 0.21's LoraConfig (`tests/peers/adapters.py` checks that), and
a field that they do not know is refused unless it is off.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoints.hub_names import with_revision
from checkpoints.model_json import read_json
from recurrentgemma.errors import UserError

CONFIG = "adapter_config.json"
MERGE = "merge it with PEFT's merge_and_unload, and convert the model"
# Fields that leave the meaning of the tensors alone, or that choose layers, as the tensors' names
# do. The *_config ones count with their init_lora_weights, which is refused.
# fmt: off
READ = frozenset((
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "init_lora_weights", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "runtime_config", "megatron_core", "qalora_group_size",
    "ensure_weight_tying",
))
# fmt: on
PLAIN: dict[str, tuple[Any, str]] = {  # field -> the only value taken, what another would mean
    "fan_in_fan_out": (False, "its weights lie transposed"),
    "bias": ("none", "biases of the base were trained too"),
    "lora_bias": (False, "the adapters have biases"),
    "use_rslora": (False, "it is scaled by lora_alpha / sqrt(r)"),
    "rank_pattern": ({}, "layers differ in rank"),
    "alpha_pattern": ({}, "layers differ in scale"),
    "modules_to_save": (None, "whole layers were trained too"),
    "trainable_token_indices": (None, "rows of the embedding were trained too"),
    "target_parameters": (None, "its adapters are of parameters that are no linear layer's"),
    "layer_replication": (None, "layers of the base are repeated"),
    "megatron_config": (None, "it is of a model split by Megatron"),
    "use_dora": (False, "DoRA: columns have a trained length"),
    "use_qalora": (False, "QALoRA: inputs are pooled first"),
    "use_bdlora": (None, "BD-LoRA: the adapters are block-diagonal"),
    "velora_config": (None, "VeLoRA: projections are stored beside the adapters"),
    "kasa_config": (None, "KaSA: the base's smallest singular values are cut off"),
    "arrow_config": (None, "Arrow: each token chooses among adapters"),
    "monteclora_config": (None, "MonteCLoRA: the adapters are drawn at random"),
    "alora_invocation_tokens": (
        None,
        "activated LoRA: the adapters act only after these tokens, so no weights can be merged",
    ),
}
OFF = (None, False, "", [], {})
INIT = (
    True,
    False,
    "gaussian",
    "eva",
    "orthogonal",
    "mica",
)  # these leave the base's weights alone
CONVERT = (
    f"{MERGE}, or save the adapters with save_pretrained(..., "
    f"path_initial_model_for_weight_conversion=...)"
)
CHANGES_BASE = {  # the start of init_lora_weights -> its name, what to do
    "pissa": ("PiSSA", CONVERT),
    "olora": ("OLoRA", CONVERT),
    "corda": ("CorDA", CONVERT),
    "lora_ga": ("LoRA-GA", CONVERT),
    "loftq": ("LoftQ", MERGE),
}


def read_lora(path: Path) -> tuple[int, float, str]:
    """(rank, alpha, the base's name or path or "") of a plain LoRA's adapter_config.json. A name
    has its revision, where there is one.

    Raises:
      ValueError: another kind of adapter, or what is not known to be one; the field is named.
    """
    content = read_json(path)
    kind = content.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{path}: peft_type={kind!r}: expected 'LORA'; {MERGE}")
    if problems := not_plain(content):
        raise UserError(
            f"{path}: {'; '.join(problems)}. Only a plain LoRA of linear layers can be merged here"
        )
    rank: Any = content.get("r")
    alpha: Any = content.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise UserError(f"{path}: r={rank!r}: expected a whole number of at least 1")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise UserError(f"{path}: lora_alpha={alpha!r}: expected a number")
    names = {name: content.get(name) or "" for name in ("base_model_name_or_path", "revision")}
    for name, value in names.items():
        if not isinstance(value, str):
            raise UserError(f"{path}: {name}={value!r}: expected a text")
    base, revision = names.values()
    return rank, float(alpha), with_revision(base, revision)


def not_plain(content: Mapping[str, Any]) -> list[str]:
    """What a LoRA's adapter_config.json says that makes it more than a plain one; each names its
    field."""
    problems = []
    for name, value in content.items():
        if name == "init_lora_weights":
            problems += _not_plain_init(value)
        elif name in PLAIN:
            plain, meaning = PLAIN[name]
            if value != plain and value not in OFF:
                remedy = "" if name == "alora_invocation_tokens" else f"; {MERGE}"
                problems.append(f"{name}={value!r}: {meaning}{remedy}")
        elif name not in READ and value not in OFF:
            problems.append(
                f"{name}={value!r}: a field of a newer PEFT, not known here; {MERGE}, or take the "
                f"field out if it changes nothing"
            )
    return problems


def lora_json(rank: int, alpha: float, base: str, layers: Sequence[str]) -> dict[str, Any]:
    """The content of adapter_config.json for a plain LoRA of layers by Hugging Face's names."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha % 1 == 0 else alpha,
        "target_modules": sorted(layers),
        "lora_dropout": 0.0,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }


def _not_plain_init(value: Any) -> list[str]:
    word = value.lower() if isinstance(value, str) else value
    if value is None or word in INIT:
        return []
    for start, (name, remedy) in CHANGES_BASE.items():
        if isinstance(word, str) and word.startswith(start):
            return [
                f"init_lora_weights={value!r}: {name} changes the base's weights before training, "
                f"and these adapters belong to the changed ones; {remedy}"
            ]
    return [f"init_lora_weights={value!r}: not known here; {MERGE}"]
