# SPDX-License-Identifier: Apache-2.0
"""transformers' config.json of RecurrentGemma, to and from GriffinConfig.

`intermediate_size` there is twice the hidden width and is halved inside. What transformers cannot
vary is checked (FIXED): a file that says otherwise would run differently there and here.
"""

import math
from pathlib import Path
from typing import Any

from checkpoints.model_json import deepmind_problems, read_json
from recurrentgemma.config import CONV_WIDTH, BlockType, Dtype, GriffinConfig
from recurrentgemma.errors import UserError

FIXED: dict[str, Any] = {
    "model_type": "recurrent_gemma",
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "num_key_value_heads": 1,
    "conv1d_width": CONV_WIDTH,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": True,
    "embeddings_scale_by_sqrt_dim": True,
}
BLOCK_TYPES: dict[str, BlockType] = {"recurrent": "recurrent", "attention": "local_attention"}
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "attention_window_size",
)
TOKEN_IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}  # Gemma's


def config_from_json(path: Path, dtype: Dtype) -> GriffinConfig:
    """The config in transformers' config.json, for tensors stored in dtype.

    Raises:
      ValueError: a field is missing, or has a value that this architecture does not have.
    """
    content = read_json(path)
    try:
        return _config(content, dtype)
    except KeyError as error:
        raise UserError(f"{path}: lacks {error.args[0]}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def config_to_json(config: GriffinConfig) -> dict[str, dict[str, Any]]:
    """The contents of config.json and generation_config.json that transformers loads.

    The token ids are Gemma's; the converter replaces them where a tokenizer says otherwise.
    """
    inverse = {ours: theirs for theirs, ours in BLOCK_TYPES.items()}
    names = {k: v for k, v in FIXED.items() if k not in ("rope_theta", "partial_rotary_factor")}
    names.pop("embeddings_scale_by_sqrt_dim")
    content = {
        "architectures": ["RecurrentGemmaForCausalLM"],
        **names,
        **TOKEN_IDS,
        "attention_dropout": 0.0,
        "attention_window_size": config.attention_window,
        "block_types": [inverse[block_type] for block_type in config.pattern],
        "dtype": config.param_dtype,
        "final_w_init_variance_scale": 2.0 / config.num_layers,
        "head_dim": config.head_dim,
        "hidden_size": config.width,
        "intermediate_size": 2 * config.mlp_width,
        "logits_soft_cap": config.logits_soft_cap,
        "lru_width": config.lru_width,
        "num_attention_heads": _heads(config),
        "num_hidden_layers": config.num_layers,
        "rope_parameters": {
            "partial_rotary_factor": FIXED["partial_rotary_factor"],
            "rope_theta": FIXED["rope_theta"],
            "rope_type": "default",
        },
        "use_cache": True,
        "vocab_size": config.vocab_size,
        "w_init_variance_scale": 0.01,
    }
    return {"config.json": content, "generation_config.json": {**TOKEN_IDS, "use_cache": True}}


def require_huggingface(config: GriffinConfig) -> None:
    """Check that transformers can run a config.

    Raises:
      ValueError: it cannot; the message names the fields.
    """
    if problems := huggingface_problems(config):
        raise UserError("transformers cannot run this model: " + "; ".join(problems))


def huggingface_problems(config: GriffinConfig) -> list[str]:
    """What keeps transformers' RecurrentGemma from running a config."""
    problems = deepmind_problems(config)
    if not config.scale_embeddings:
        problems.append("it always scales embeddings (scale_embeddings=False)")
    if config.logits_soft_cap is None:
        problems.append("it always caps logits (logits_soft_cap=None)")
    if len(config.pattern) * 100 < config.num_layers:
        problems.append("it repeats a pattern at most 100 times")
    return problems


def _heads(config: GriffinConfig) -> int:
    """transformers has one number for heads and gate blocks; Hawk needs it for the latter alone."""
    return config.num_heads if "local_attention" in config.block_types else config.num_gate_blocks


def _config(content: dict[str, Any], dtype: Dtype) -> GriffinConfig:
    rope = content.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError(f"rope_parameters is {rope!r}; expected an object")
    for name in SIZES:
        if type(content[name]) is not int or content[name] < 1:
            raise UserError(f"{name}={content[name]!r}: expected a whole number of at least 1")
    if not isinstance(content["block_types"], list):
        raise UserError(f"block_types is {content['block_types']!r}; expected a list")
    flat = {**content, **{k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}}
    flat.setdefault("model_type", None)
    for name, value in FIXED.items():
        if name in flat and flat[name] != value:
            raise UserError(f"{name} is {flat[name]!r}; RecurrentGemma has {value!r}, always")
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"rope_type is {rope['rope_type']!r}; expected 'default'")
    for name in content["block_types"]:
        if not isinstance(name, str) or name not in BLOCK_TYPES:
            raise UserError(f"block type {name!r}; expected one of {', '.join(BLOCK_TYPES)}")
    if content["intermediate_size"] % 2:
        raise UserError(
            f"intermediate_size={content['intermediate_size']} is odd; expected twice the MLP's "
            "hidden width"
        )
    width, heads = content["hidden_size"], content["num_attention_heads"]
    head_dim = content.get("head_dim") or width // heads
    if type(head_dim) is not int:
        raise UserError(f"head_dim={head_dim!r}: expected a whole number")
    if "attention" not in content["block_types"][: content["num_hidden_layers"]]:
        head_dim = 4 * math.ceil(head_dim / 4)  # Hawk has no heads, but our config wants a size
    return GriffinConfig(
        vocab_size=content["vocab_size"],
        width=width,
        mlp_width=content["intermediate_size"] // 2,
        num_layers=content["num_hidden_layers"],
        pattern=tuple(BLOCK_TYPES[name] for name in content["block_types"]),
        lru_width=content.get("lru_width") or width,
        num_gate_blocks=heads,
        num_heads=heads,
        head_dim=head_dim,
        attention_window=content["attention_window_size"],
        scale_embeddings=True,
        logits_soft_cap=content["logits_soft_cap"],
        dtype=dtype,
        param_dtype=dtype,
    )
