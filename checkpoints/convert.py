# SPDX-License-Identifier: Apache-2.0
"""From one checkpoint format to another: read, check, write elsewhere, rename into place.

The names and layouts are in names.py; here is only the order of things. Memory: one copy of the
parameters in the target dtype, and one more while Orbax writes (griffin, deepmind-flax). The
destination appears whole or not at all.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from checkpoints import deepmind_flax, deepmind_torch, huggingface, store
from checkpoints.adapters import merged
from checkpoints.huggingface_json import TOKEN_IDS, require_huggingface
from checkpoints.load import open_adapters, open_source
from checkpoints.model_json import read_json, require_deepmind
from checkpoints.names import FORMATS, Format
from checkpoints.shapes import resolve_config
from checkpoints.source import Source, read_params
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import find_tokenizer

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "byte_tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did."""

    format: Format  # of the source
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
) -> Report:
    """Write the checkpoint at src, of any format, to dst in the format `to`.

    dst becomes a directory; for deepmind-torch a name that ends in .pt becomes that file.
    params_wrapper is for deepmind-flax: whether the tree has a `params` level, as DeepMind's
    save_parameters writes it, or none, as on Kaggle. adapters: low-rank adapters that are added to
    the weights, of PEFT's or of a run.

    Raises:
      ValueError: dst exists and is not empty; src is damaged or contradicts its config; the format
        cannot hold the config.
      ImportError: a .pt file, and torch is not installed.
    """
    started = time.perf_counter()
    src, dst = Path(src), Path(dst)
    if to not in FORMATS:
        raise UserError(f"to={to!r}: expected one of {', '.join(FORMATS)}")
    source = open_source(src)
    if adapters is not None:
        found, trained_on = open_adapters(adapters)
        source = merged(source, found, config or trained_on)
    config = resolve_config(source, config, dtype)
    if to.startswith("deepmind"):
        require_deepmind(config)
    if to == "huggingface":
        require_huggingface(config)
    if to == "deepmind-torch":
        deepmind_torch.require_torch()
    home = next((f for f in source.folders if find_tokenizer(f) is not None), None)
    tokenizer = [home / n for n in TOKENIZER_FILES if (home / n).is_file()] if home else []

    with _appearing(dst, is_file=to == "deepmind-torch" and dst.suffix == ".pt") as folder:
        params = dict(read_params(source, config.param_dtype))
        count = sum(math.prod(array.shape) for array in params.values())
        match to:
            case "griffin":
                store.write(folder, params, config)
            case "deepmind-flax":
                deepmind_flax.write(folder, params, config, wrapper=params_wrapper)
            case "deepmind-torch":
                folder.mkdir(parents=True)
                name = dst.name if dst.suffix == ".pt" else f"{dst.name}.pt"
                deepmind_torch.write(folder / name, params, config)
            case "huggingface":
                huggingface.write(folder, params, config)
                _set_token_ids(folder, source, home)
        for file in tokenizer:
            shutil.copyfile(file, folder / file.name)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    names = tuple(file.name for file in tokenizer)
    seconds = time.perf_counter() - started
    return Report(source.format, count, config.param_dtype, size, seconds, names)


@contextlib.contextmanager
def _appearing(dst: Path, *, is_file: bool) -> Iterator[Path]:
    """A folder to write into that takes dst's place at the end, and vanishes if something fails.

    Where dst is to be a file, the folder holds one of its name, and all goes where dst belongs.
    """
    if dst.exists() and (dst.is_file() or is_file or any(dst.iterdir())):
        raise UserError(f"{dst}: exists already; remove it, or choose another destination")
    dst.parent.mkdir(parents=True, exist_ok=True)
    folder = dst.parent / f".{dst.name}.{os.getpid()}.partial"
    try:
        yield folder
        if not is_file:
            if dst.exists():
                dst.rmdir()  # empty
            folder.replace(dst)
            return
        taken = [f.name for f in folder.iterdir() if not _same(f, dst.parent / f.name)]
        if taken:
            raise UserError(
                f"{dst.parent}: {', '.join(taken)} would be overwritten; choose an empty directory"
            )
        for file in sorted(folder.iterdir(), key=lambda file: file.suffix == ".pt"):
            file.replace(dst.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _same(new: Path, old: Path) -> bool:
    """Whether `new` may take the place of `old`: there is no old one, or it has the same bytes."""
    return not old.exists() or old.read_bytes() == new.read_bytes()


def _set_token_ids(folder: Path, source: Source, home: Path | None) -> None:
    """Carry begin, end and padding ids into transformers' two configs: from the source's if it is
    Hugging Face's too, else from the tokenizer, else Gemma's stay."""
    ids: dict[str, object] = {}
    origin = source.folders[0]
    if source.format == "huggingface" and (origin / "config.json").is_file():
        stated = read_json(origin / "config.json")
        ids = {name: stated[name] for name in TOKEN_IDS if name in stated}
        if (origin / "generation_config.json").is_file():
            shutil.copyfile(origin / "generation_config.json", folder / "generation_config.json")
    elif home is not None and (tokenizer := find_tokenizer(home)) is not None:
        ids = {name: getattr(tokenizer, name.replace("_token", "")) for name in TOKEN_IDS}
        generation = read_json(folder / "generation_config.json") | ids
        _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "config.json", read_json(folder / "config.json") | ids)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
