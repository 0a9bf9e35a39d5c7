# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters on disk, as Hugging Face's PEFT keeps them, and merged into their base.

    DIR/adapter_config.json          rank, alpha, layers, and the base's path
    DIR/adapter_model.safetensors    base_model.model.LAYER.lora_A.weight [rank, I]
                                     base_model.model.LAYER.lora_B.weight [J, rank]

LAYER is a linear layer by Hugging Face's name. A run that trained adapters holds them by canonical
name in its steps, `blocks.0/mlp_block/ffw_up/weight_lora_a` [I, rank] and `..._b` [rank, J], and
says in config.json under "train" what its base ("init_from") and its "lora" are. Both are opened
like any other checkpoint: the base's weights, each with its adapters added in float32 and rounded
once.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from checkpoints.files import new_file
from checkpoints.hub_names import without_revision
from checkpoints.names import ROWS, fill_block, split_block
from checkpoints.open_checkpoint import Damaged, OpenCheckpoint, StoredTensor, read_params
from checkpoints.peft_json import CONFIG as CONFIG
from checkpoints.peft_json import lora_json, read_lora
from checkpoints.shapes import resolve_config
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.parameters import param_shapes

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
LAYERS = {  # template of a linear layer, canonical -> Hugging Face's
    row.canonical.removesuffix("/weight"): row.huggingface.removesuffix(".weight")
    for row in ROWS
    if row.canonical.endswith("/weight")
}


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters and what they belong to. `pairs`: canonical layer -> (a [I, rank], b [rank, J]),
    float32; W [J, I] becomes W + alpha / rank (a b)^T."""

    path: Path
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    rank: int
    alpha: float
    base: str

    def flat(self) -> dict[str, np.ndarray]:
        """The arrays by canonical name."""
        arrays = {}
        for layer, (a, b) in self.pairs.items():
            arrays |= {f"{layer}/weight_lora_a": a, f"{layer}/weight_lora_b": b}
        return arrays


def from_flat(path: Path, flat: Mapping[str, Any], *, alpha: float, base: str) -> Adapters:
    """Adapters out of arrays by canonical name.

    Raises:
      Damaged: one of a pair is missing, or they do not fit each other.
    """
    pairs = {}
    for name in flat:
        layer, _, which = name.rpartition("/weight_lora_")
        if which not in ("a", "b") or f"{layer}/weight_lora_{'ba'[which == 'b']}" not in flat:
            raise Damaged(f"{path}: {name!r} is not one of a pair of adapters")
        a, b = (np.asarray(flat[f"{layer}/weight_lora_{w}"], np.float32) for w in "ab")
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise Damaged(f"{path}: adapters {a.shape} and {b.shape} of {layer!r} do not fit")
        pairs[layer] = a, b
    ranks = {a.shape[1] for a, _ in pairs.values()}
    if len(ranks) != 1:
        raise Damaged(f"{path}: expected adapters of one rank, found {sorted(ranks) or 'none'}")
    return Adapters(path, pairs, ranks.pop(), alpha, base)


def write(folder: str | Path, adapters: Adapters) -> None:
    """Write them as PEFT keeps them, into a directory that is made if it is missing.

    Raises:
      ValueError: there are adapters in it already.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists():
        raise UserError(f"{folder / CONFIG} exists already; choose another directory")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for layer, (a, b) in adapters.pairs.items():
        name = f"{PREFIX}{_huggingface(layer)}"
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b.T)
    with new_file(folder / WEIGHTS) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
    layers = [_huggingface(layer) for layer in adapters.pairs]
    base, revision = without_revision(adapters.base)
    content = lora_json(adapters.rank, adapters.alpha, base, layers) | {"revision": revision}
    with new_file(folder / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read(folder: str | Path) -> Adapters:
    """The adapters in a directory of PEFT's.

    Raises:
      Damaged: a file is missing or truncated, or a tensor is.
      ValueError: another kind of adapter than a plain LoRA of linear layers.
    """
    folder = Path(folder)
    rank, alpha, base = read_lora(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        _refuse_pickle(folder)
        raise Damaged(f"{folder / WEIGHTS}: missing; copy it again")
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise Damaged(f"{folder / WEIGHTS}: truncated ({error}); copy it again") from error
    flat = {_canonical(folder, name): tensor.T for name, tensor in tensors.items()}
    adapters = from_flat(folder, flat, alpha=alpha, base=base)
    if adapters.rank != rank:
        raise Damaged(f"{folder}: r={rank} in {CONFIG}, {adapters.rank} in {WEIGHTS}")
    return adapters


def base_of(folder: Path) -> str:
    """What the adapters in a directory of PEFT's belong to. Raises ValueError as `read`."""
    return read_lora(folder / CONFIG)[2]


def of_run(checkpoint: OpenCheckpoint, train: Mapping[str, Any]) -> Adapters:
    """The adapters that a run's step holds; `train` is what config.json says of its training.

    Raises:
      ValueError: it does not say what they belong to.
    """
    lora, base = train.get("lora"), train.get("init_from")
    if not isinstance(lora, Mapping) or not base:
        raise UserError(
            f"{checkpoint.path}: holds adapters, and its config.json does not say of what base: "
            f'expected "init_from" and "lora" under "train"'
        )
    flat = dict(checkpoint.read(np.dtype(np.float32)))
    return from_flat(checkpoint.path, flat, alpha=float(lora["alpha"]), base=str(base))


def are_adapters(checkpoint: OpenCheckpoint) -> bool:
    """Whether a checkpoint of ours holds adapters instead of a model's parameters."""
    return any("_lora_" in name for name in checkpoint.tensors)


def merged(
    base: OpenCheckpoint, adapters: Adapters, config: GriffinConfig | None = None
) -> OpenCheckpoint:
    """The base with the adapters added, as a checkpoint by canonical name.

    config is for a base that does not say what it is.

    Raises:
      ValueError: the adapters are of other layers, or of other sizes, than the base has.
    """
    config = resolve_config(base, config, None)
    shapes = param_shapes(config)
    for layer, (a, b) in adapters.pairs.items():
        shape = shapes.get(f"{layer}/weight")
        if shape != (b.shape[1], a.shape[0]):
            size = f"is {list(shape)} there" if shape else "is not a layer of it"
            raise UserError(
                f"{adapters.path}: its adapters are not of {base.path}: {layer!r} "
                f"[{b.shape[1]}, {a.shape[0]}] {size}"
            )
    scale = np.float32(adapters.alpha / adapters.rank)

    def read(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in read_params(base, "float32"):
            pair = adapters.pairs.get(name.removesuffix("/weight"))
            if pair is not None:
                array = array + scale * (pair[0] @ pair[1]).T
            yield name, array.astype(dtype, copy=False)

    tensors = {name: StoredTensor(shape, base.stored_dtype) for name, shape in shapes.items()}
    folders = (adapters.path, *base.folders)  # where its tokenizer may lie
    return OpenCheckpoint(adapters.path, "griffin", tensors, read, config, folders=folders)


def _refuse_pickle(folder: Path) -> None:
    if (folder / PICKLE).is_file():
        raise UserError(
            f"{folder / PICKLE}: a pickle of PyTorch's, which is not opened here because it may "
            f"run any code; convert it where you trust it, with PyTorch, in its directory: python "
            f'-c "import torch; from safetensors.torch import save_file; save_file(torch.load('
            f"'{PICKLE}', weights_only=True), '{WEIGHTS}')\""
        )


def _huggingface(layer: str) -> str:
    template, block = split_block(layer)
    return fill_block(LAYERS[template], block)


def _canonical(folder: Path, name: str) -> str:
    templates = {theirs: ours for ours, theirs in LAYERS.items()}
    for ending, which in ((".lora_A.weight", "a"), (".lora_B.weight", "b")):
        if name.startswith(PREFIX) and name.endswith(ending):
            template, block = split_block(name[len(PREFIX) : -len(ending)])
            if template in templates:
                return f"{fill_block(templates[template], block)}/weight_lora_{which}"
    raise UserError(
        f"{folder / WEIGHTS}: {name!r} is no adapter of a linear layer of RecurrentGemma"
    )
