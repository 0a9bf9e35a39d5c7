# SPDX-License-Identifier: Apache-2.0
"""A config beside the tensors: our config.json, and which configs the other formats can hold."""

import json
from pathlib import Path
from typing import Any

from checkpoints.files import new_file
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.presets import PRESETS, preset
from recurrentgemma.text.tokenizer_files import read_json as read_json


def read_model_json(path: Path) -> GriffinConfig | None:
    """The model config in one of our config.json files; None where there is no such file.

    Raises:
      ValueError: the file is not ours, or its model config is wrong.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    if "model" not in content:
        raise UserError(f'{path}: expected an object with "model", found {sorted(content)[:5]}')
    try:
        return GriffinConfig.from_json(content["model"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def config_named(named: str) -> GriffinConfig:
    """What `--config` and `rg.load(config=...)` mean: a preset, or one of our config.json files.

    Raises:
      ValueError: it is neither, or the file is not ours.
    """
    if named in PRESETS:
        return preset(named)
    config = read_model_json(Path(named))
    if config is None:
        raise UserError(
            f"config {named!r}: neither a preset ({', '.join(PRESETS)}) nor a file that exists"
        )
    return config


def write_model_json(
    path: Path, config: GriffinConfig, train: dict[str, Any] | None = None
) -> None:
    """Write our config.json, whole or not at all; `train` is what a run adds to it."""
    content: dict[str, Any] = {"model": config.to_json()}
    if train is not None:
        content["train"] = train
    with new_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def require_deepmind(config: GriffinConfig) -> None:
    """Check that DeepMind's code, and Hugging Face's port of it, can run a config.

    Raises:
      ValueError: it cannot; the message names the fields.
    """
    problems = deepmind_problems(config)
    if problems:
        raise UserError("DeepMind's code cannot run this model: " + "; ".join(problems))


def deepmind_problems(config: GriffinConfig) -> list[str]:
    """What keeps DeepMind's code from running a config.

    It has one number for heads and gate blocks, and the head size follows from it; without
    attention that number is the gate blocks alone.
    """
    problems = []
    kinds = set(config.block_types)
    if "global_attention" in kinds:
        problems.append("it has no global attention (pattern)")
    if kinds == {"recurrent"}:
        return problems
    if config.num_heads * config.head_dim != config.width:
        problems.append(
            f"num_heads={config.num_heads} times head_dim={config.head_dim} must be "
            f"width={config.width}"
        )
    if "recurrent" in kinds and config.num_gate_blocks != config.num_heads:
        problems.append(
            f"num_gate_blocks={config.num_gate_blocks} must be num_heads={config.num_heads}"
        )
    return problems
