# SPDX-License-Identifier: Apache-2.0
"""From one checkpoint format to another: read, check, write elsewhere, rename into place.

The names and layouts are in names.py; here is only the order of things. Memory: one copy of the
parameters in the target dtype, and one more while Orbax writes (griffin, deepmind-flax). The
destination appears whole or not at all.
"""

import dataclasses
import json
import math
import shutil
import tempfile
import time
from pathlib import Path

from checkpoints import (
    deepmind_flax,
    deepmind_torch,
    destination,
    huggingface,
    store,
    transformers_tokenizer,
)
from checkpoints.adapters import merged
from checkpoints.huggingface_json import TOKEN_IDS, require_huggingface
from checkpoints.load import open_adapters, open_checkpoint, tokenizer_of
from checkpoints.model_json import read_json, require_deepmind
from checkpoints.names import FORMATS, Format
from checkpoints.open_checkpoint import OpenCheckpoint, read_params
from checkpoints.shapes import resolve_config
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import (
    FILES,
    Tokenizer,
    check_vocabulary,
    save_tokenizer,
)
from recurrentgemma.text.tokenizer_files import BESIDE, GENERATION


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did."""

    format: Format  # of the checkpoint read
    parameters: int
    dtype: str
    bytes: int  # of the destination, on disk
    seconds: float
    tokenizer: tuple[str, ...]  # files that travelled along


def convert(
    src: str | Path,
    dst: str | Path,
    to: Format,
    *,
    config: GriffinConfig | None = None,
    dtype: str | None = None,
    params_wrapper: bool = True,
    adapters: str | Path | None = None,
    code: str = "",
) -> Report:
    """Write the checkpoint at src, of any format or by name, to dst in the format `to`.

    dst becomes a directory, or is an empty one that is filled; for deepmind-torch a name that ends
    in .pt becomes that file. With huggingface the tokenizer and the ids that end an answer become
    those of transformers (transformers_tokenizer.py).
    params_wrapper is for deepmind-flax: whether the tree has a `params` level, as DeepMind's
    save_parameters writes it, or none, as on Kaggle. adapters: low-rank adapters that are added to
    the weights, of PEFT's (a name will do) or of a run; or templates, with the code of this task.

    Raises:
      ValueError: dst exists and is not empty; src is damaged or contradicts its config; the format
        cannot hold the config or the tokenizer.
      ImportError: a .pt file, and torch is not installed.
    """
    started = time.perf_counter()
    dst = Path(dst)
    if to not in FORMATS:
        raise UserError(f"to={to!r}: expected one of {', '.join(FORMATS)}")
    is_file = to == "deepmind-torch" and dst.suffix == ".pt"
    if not is_file:
        destination.require_free(dst)
    checkpoint = open_checkpoint(src)
    if adapters is not None:
        pairs, trained_on = open_adapters(adapters, code)
        checkpoint = merged(checkpoint, pairs, config or trained_on)
    config = resolve_config(checkpoint, config, dtype)
    if to.startswith("deepmind"):
        require_deepmind(config)
    if to == "huggingface":
        require_huggingface(config)
    if to == "deepmind-torch":
        deepmind_torch.require_torch()
    tokenizer, _ = tokenizer_of(checkpoint, config.vocab_size)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config.vocab_size)
    files = _tokenizer_files(tokenizer, to)

    if is_file:
        written = destination.new_file(dst, files, (*FILES, *BESIDE))
    else:
        written = destination.new_directory(dst)
    with written as folder:
        params = dict(read_params(checkpoint, config.param_dtype))
        count = sum(math.prod(array.shape) for array in params.values())
        match to:
            case "griffin":
                store.write(folder, params, config)
            case "deepmind-flax":
                deepmind_flax.write(folder, params, config, wrapper=params_wrapper)
            case "deepmind-torch":
                folder.mkdir()
                name = dst.name if is_file else f"{dst.resolve().name}.pt"
                deepmind_torch.write(folder / name, params, config)
            case "huggingface":
                huggingface.write(folder, params, config)
                _set_token_ids(folder, checkpoint, tokenizer)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    seconds = time.perf_counter() - started
    names = tuple(name for name in files if name != GENERATION)
    return Report(checkpoint.format, count, config.param_dtype, size, seconds, names)


def _tokenizer_files(tokenizer: Tokenizer | None, to: Format) -> dict[str, bytes]:
    """The files that will lie beside the tensors, by name."""
    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        if to == "huggingface":
            transformers_tokenizer.write(Path(scratch), tokenizer)
        else:
            save_tokenizer(tokenizer, scratch)
        return {file.name: file.read_bytes() for file in sorted(Path(scratch).iterdir())}


def _set_token_ids(folder: Path, checkpoint: OpenCheckpoint, tokenizer: Tokenizer | None) -> None:
    """Carry begin, end and padding ids into transformers' config.json: from the checkpoint's if it
    is Hugging Face's too, else from the tokenizer, else Gemma's stay. Without a tokenizer the
    checkpoint's generation_config.json is copied; with one it is among the tokenizer's files."""
    ids: dict[str, object] = {}
    origin = checkpoint.folders[0]
    if checkpoint.format == "huggingface" and (origin / "config.json").is_file():
        stated = read_json(origin / "config.json")
        ids = {name: stated[name] for name in TOKEN_IDS if name in stated}
        if (origin / GENERATION).is_file():
            shutil.copyfile(origin / GENERATION, folder / GENERATION)
    elif tokenizer is not None:
        ids = {name: getattr(tokenizer, name.replace("_token", "")) for name in TOKEN_IDS}
    content = read_json(folder / "config.json") | ids
    text = json.dumps(content, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
