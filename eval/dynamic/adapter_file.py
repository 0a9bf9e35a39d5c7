# SPDX-License-Identifier: Apache-2.0
"""A saved OnlineAdapter: one safetensors file, whole or not there at all.

| tensors | |
|---|---|
| `learner.adapted.*`, `learner.good.*` | parameters of now, and of the last finite loss |
| `learner.opt_state.*` | of the optimizer |
| `learner.gradients.*` | their sum since the last update |
| `learner.state.*` | of the model |
| `ids` | tokens that the next segment needs |
| `statistics.*`, `replay.*` | gradient statistics, earlier segments: where they are used |

The metadata have `format`, `version`, `adapter` (JSON) and `sha256`, of that JSON and of all
tensors. The base model is known by the fingerprint of its weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from checkpoints.files import is_dir, is_file, naming, new_file
from checkpoints.session_file import digest, weights_fingerprint
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.text.tokenizer import tokenizer_fingerprint

FORMAT, VERSION = "griffin-lm online adapter", 1


def write(
    path: Path, lm: LanguageModel, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write an adapter of `lm`.

    Raises:
      UserError: something is at `path` that is not a saved adapter.
      OSError: it cannot be written.
    """
    if is_dir(path) or (is_file(path) and _metadata(path).get("format") != FORMAT):
        raise UserError(f"{path} is there and is not a saved adapter: save to another path")
    if not is_dir(path.parent):
        raise UserError(f"there is no directory {path.parent} to save an adapter in: make it first")
    text = json.dumps({**header, "model": _model(lm)}, sort_keys=True)
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "adapter": text}
    metadata["sha256"] = digest(text, tensors)
    with naming(path), new_file(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata))


def read(path: Path, lm: LanguageModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays.

    Raises:
      UserError: there is no such file; it is no saved adapter, damaged, or a newer version's; or it
        is of another model or tokenizer.
    """
    if not is_file(path):
        raise UserError(f"there is no saved adapter {path}")
    metadata = _metadata(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a saved adapter, or damaged: expected what OnlineAdapter.save wrote"
        )
    if metadata.get("version") != str(VERSION):
        raise UserError(
            f"{path} is an adapter of format {metadata.get('version')}, and this griffin-lm reads "
            f"format {VERSION}: it was saved by a newer one; update this one"
        )
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
    if digest(metadata["adapter"], arrays) != metadata.get("sha256"):
        raise UserError(f"{path} is damaged: its content is not what was saved; copy it again")
    header = json.loads(metadata["adapter"])
    saved, own = dict(header["model"]), _model(lm)
    if saved["weights"] != own["weights"]:
        raise UserError(
            f"{path} adapts another model, with weights {saved['weights']} (here "
            f"{own['weights']}): load it with the model that it was saved with"
        )
    if None not in (saved["tokenizer"], own["tokenizer"]) and saved != own:
        raise UserError(
            f"{path} was fed with another tokenizer than this model has here: load the model with "
            "the tokenizer that it was saved with"
        )
    return header, arrays


def within(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without that."""
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}


def _model(lm: LanguageModel) -> dict[str, str | None]:
    tokenizer = None if lm.tokenizer is None else tokenizer_fingerprint(lm.tokenizer)
    return {"weights": weights_fingerprint(lm), "tokenizer": tokenizer}


def _metadata(path: Path) -> Mapping[str, str]:
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}
