# SPDX-License-Identifier: Apache-2.0
"""Hypernetwork adapters on disk: templates, the codes of tasks, and what they belong to.

    DIR/hyper_adapter.json           format, version, hyper (HyperConfig), num_layers, base
    DIR/hyper_adapter.safetensors    LAYER/weight_lora_a [I, R], LAYER/weight_lora_b [R, J]
                                     hyper_code/NAME [G, M], of each task

LAYER is a linear layer by canonical name. With one of its codes such a folder is a LoRA of rank
R = M r, which everything that reads a LoRA reads: `griffin merge`, `generate`, `serve`, `convert`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from checkpoints import adapters
from checkpoints.files import new_file
from checkpoints.model_json import read_json
from checkpoints.open_checkpoint import Damaged
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError, did_you_mean
from recurrentgemma.hyper_adapters import (
    CODE,
    HyperConfig,
    as_lora,
    check_templates,
    code_of,
    coded_of_layers,
)

CONFIG, WEIGHTS = "hyper_adapter.json", "hyper_adapter.safetensors"
FORMAT, VERSION = "griffin-lm hypernetwork adapters", 1


@dataclasses.dataclass(frozen=True)
class HyperAdapters:
    """templates: by the names of LoRA, float32 A [I, R] and B [R, J]. codes: task -> [G, M]. base:
    the path or name of the model that they were trained on, and num_layers of its blocks."""

    path: Path
    hyper: HyperConfig
    num_layers: int
    base: str
    templates: Mapping[str, np.ndarray]
    codes: Mapping[str, np.ndarray]

    def code(self, name: str = "") -> np.ndarray:
        """The code of a task, or the only one there is.

        Raises UserError: there is no such task, or none is named of several.
        """
        names = ", ".join(self.codes) or "none"
        if not name and len(self.codes) == 1:
            return next(iter(self.codes.values()))
        if not name:
            raise UserError(
                f"{self.path}: its templates have codes of several tasks or of none ({names}): "
                "name one, as in `griffin merge BASE ADAPTERS OUT --code NAME`"
            )
        if name not in self.codes:
            raise UserError(
                f"{self.path}: no code of {name!r}{did_you_mean(name, self.codes)}; they are "
                f"{names}"
            )
        return self.codes[name]

    def lora(self, name: str = "") -> adapters.Adapters:
        """The adapter of a task as a LoRA. Raises UserError as `code`."""
        flat = coded_of_layers(self.num_layers, self.hyper, self.templates, self.code(name))
        alpha = as_lora(self.hyper).alpha
        return adapters.from_flat(self.path, flat, alpha=alpha, base=self.base)

    def check(self, config: GriffinConfig) -> None:
        """Raises UserError: they are of another model than this."""
        check_templates(config, self.hyper, self.templates, str(self.path))
        if self.num_layers != config.num_layers:
            raise UserError(
                f"{self.path}: its templates are of a model of {self.num_layers} layers, and this "
                f"one has {config.num_layers}; take the model that they were trained on"
            )


def write(folder: str | Path, written: HyperAdapters) -> None:
    """Write them into a directory, which is made if it is missing; the JSON comes last.

    Raises UserError: there are such adapters in it already.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists():
        raise UserError(f"{folder / CONFIG} exists already; choose another directory")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(x, np.float32) for name, x in written.templates.items()}
    for name, code in written.codes.items():
        tensors[f"{CODE}/{name}"] = np.ascontiguousarray(code, np.float32)
    with new_file(folder / WEIGHTS) as unfinished:
        save_file(tensors, unfinished)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "hyper": dataclasses.asdict(written.hyper),
        "num_layers": written.num_layers,
        "base": written.base,
    }
    with new_file(folder / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_config(folder: str | Path) -> HyperConfig:
    """Which templates a directory has. Raises UserError or Damaged as `read`."""
    return _read_config(Path(folder))[0]


def read(folder: str | Path) -> HyperAdapters:
    """The templates and codes in a directory.

    Raises:
      UserError: there are none, or of a newer version.
      Damaged: a file is missing or truncated, or does not fit the other.
    """
    folder = Path(folder)
    hyper, num_layers, base = _read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise Damaged(f"{folder / WEIGHTS}: missing; copy it again")
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise Damaged(f"{folder / WEIGHTS}: truncated ({error}); copy it again") from error
    prefix = f"{CODE}/"
    codes = {
        name.removeprefix(prefix): np.asarray(code_of(hyper, x, f"{folder}, {name}"))
        for name, x in tensors.items()
        if name.startswith(prefix)
    }
    templates = {name: x for name, x in tensors.items() if not name.startswith(prefix)}
    return HyperAdapters(folder, hyper, num_layers, base, templates, codes)


def _read_config(folder: Path) -> tuple[HyperConfig, int, str]:
    """(hyper, num_layers, base)."""
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder}: holds no hypernetwork adapters; expected a directory with {CONFIG}"
        )
    content: Any = read_json(folder / CONFIG)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise UserError(
            f"{folder / CONFIG}: format {content.get('format')!r} {content.get('version')!r}, and "
            f"this griffin-lm reads {FORMAT!r} {VERSION}: it was written by a newer one, or is "
            "something else"
        )
    try:
        hyper = HyperConfig(**content["hyper"])
        return hyper, int(content["num_layers"]), str(content["base"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{folder / CONFIG}: {error}; copy it again") from error
