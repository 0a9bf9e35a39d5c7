# SPDX-License-Identifier: Apache-2.0
"""From a path or a name to a model: which format it is, told by content, then its parameters into
a Griffin. A name is one of a hub, whose files hub.py fetches.

Only one tensor exists twice at any time: each goes to the device as it is read.
"""

import shlex
import zipfile
from pathlib import Path

import jax

from checkpoints import (
    adapters,
    deepmind_flax,
    deepmind_torch,
    hub,
    huggingface,
    huggingface_json,
    hyper_adapters,
    orbax_tree,
    session_file,
    store,
)
from checkpoints.hub_names import hint, read_name
from checkpoints.model_json import read_json, read_model_json
from checkpoints.open_checkpoint import OpenCheckpoint, read_params
from checkpoints.shapes import resolve_config
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import from_flat_params
from recurrentgemma.text.tokenizer import Tokenizer, add_stops_of, find_tokenizer

EXPECTED = (
    "expected a run or checkpoint of griffin's, a DeepMind Orbax directory, a DeepMind .pt file, "
    "a Hugging Face directory or safetensors file, adapters of PEFT's, or a model's name, such as "
    "google/recurrentgemma-2b-it"
)


def load_checkpoint(
    path: str | Path | OpenCheckpoint,
    config: GriffinConfig | None = None,
    *,
    dtype: str | None = None,
) -> tuple[Griffin, GriffinConfig, Tokenizer | None]:
    """The model, its config and its tokenizer (None where there is none), from any format, at a
    path, of a name, or open already.

    config must agree with what the checkpoint says of itself, but for the fields of
    shapes.MAY_DIFFER; DeepMind's formats need it unless their shapes match a preset. dtype
    ("float32" or "bfloat16") sets both of the config's dtypes; by default parameters stay as they
    are stored.

    Raises:
      ValueError: not a checkpoint, damaged, or its tensors contradict the config.
      ImportError: a .pt file, and torch is not installed.
    """
    checkpoint = path if isinstance(path, OpenCheckpoint) else open_checkpoint(path)
    config = resolve_config(checkpoint, config, dtype)
    params = {
        name: jax.device_put(array) for name, array in read_params(checkpoint, config.param_dtype)
    }
    return from_flat_params(config, params), config, tokenizer_of(checkpoint, config.vocab_size)[0]


def tokenizer_of(
    checkpoint: OpenCheckpoint, vocab_size: int
) -> tuple[Tokenizer | None, Path | None]:
    """The tokenizer that lies with a checkpoint of so many embeddings, and its directory.

    Raises:
      ValueError: it is broken, two contradict each other, or it may be another checkpoint's.
    """
    for folder in checkpoint.folders:
        tokenizer = find_tokenizer(folder, vocab_size)
        if tokenizer is None:
            continue
        if checkpoint.format == "deepmind-torch" and tokenizer.vocab_size != vocab_size:
            _refuse_anothers(checkpoint, folder, tokenizer, vocab_size)
        for other in checkpoint.folders:  # a base's generation_config.json counts with its adapters
            add_stops_of(tokenizer, other)
        return tokenizer, folder
    return None, None


def named_tokenizer_of(
    checkpoint: OpenCheckpoint, named: str, vocab_size: int
) -> tuple[Tokenizer | None, str]:
    """The tokenizer that lies with the checkpoint `named`, and what to call it, so that it is found
    again: the checkpoint's own name, if that is one of a hub, else the directory; (None, "") where
    there is none. Raises ValueError as tokenizer_of."""
    tokenizer, home = tokenizer_of(checkpoint, vocab_size)
    if tokenizer is None:
        return None, ""
    return tokenizer, str(home) if read_name(named) is None else named


def open_checkpoint(path: str | Path) -> OpenCheckpoint:
    """Open a checkpoint of any format.

    Raises:
      ValueError: there is nothing, or nothing that is a checkpoint, or it is damaged; or hub.py
        cannot fetch it.
      ImportError: a .pt file, and torch is not installed.
    """
    if path == "":
        raise UserError(f"the path is empty; {EXPECTED}")
    named, path = path, hub.local_path(path)
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or directory{hint(named)}; {EXPECTED}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and session_file.is_session(path):
        raise UserError(
            f"{path}: a saved session, not a model; load the model that it was saved with, and "
            f"then lm.session({str(path)!r}), or `griffin chat MODEL --session "
            f"{shlex.quote(str(path))}`"
        )
    if path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{"):
        return huggingface.open_checkpoint(path)
    if path.suffix == ".pt" or _is_torch_archive(path):
        return deepmind_torch.open_checkpoint(path)
    raise UserError(f"{path}: not a checkpoint; {EXPECTED}")


def open_adapters(
    path: str | Path, code: str = ""
) -> tuple[adapters.Adapters, GriffinConfig | None]:
    """The adapters in a directory of PEFT's, or of a run that trained them; and of the latter the
    config of the model that they were trained on.

    code: the task whose code makes one adapter of a directory's templates (hyper_adapters.py);
    nothing, where there is one code only.
    Raises:
      ValueError: it holds no adapters, or they are damaged; there is no such code.
    """
    named, path = path, hub.local_path(path)
    if (path / hyper_adapters.CONFIG).is_file():
        return hyper_adapters.read(path).lora(code), None
    if code:
        raise UserError(
            f"{path}: a code ({code!r}) has no effect on adapters without templates: leave it out"
        )
    if (path / adapters.CONFIG).is_file():
        return adapters.read(path), None
    if path.is_dir() and store.is_ours(path):
        checkpoint = store.open_checkpoint(path)
        if adapters.are_adapters(checkpoint):
            _, train = store.read_run_config(checkpoint.folders[0])
            return adapters.of_run(checkpoint, train), checkpoint.config
    problem = "holds no adapters" if path.exists() else f"no such file or directory{hint(named)}"
    raise UserError(
        f"{path}: {problem}; expected a directory, or a repository on Hugging Face's hub, with "
        f"{adapters.CONFIG} or {hyper_adapters.CONFIG}, or a run of `griffin finetune` with --lora"
    )


def config_of(named: str | Path, config: GriffinConfig | None = None) -> GriffinConfig:
    """What model a checkpoint is, checked against its tensors as load_checkpoint does; where the
    repository of a name says it itself, its weights are not downloaded and not looked at.

    Raises:
      ValueError: as load_checkpoint.
    """
    name = read_name(named)
    if name is None or name.hub != "huggingface":
        return resolve_config(open_checkpoint(named), config, None)
    folder = hub.local_path(named, "small")
    if (folder / adapters.CONFIG).is_file():
        return config_of(adapters.base_of(folder), config)
    path = folder / "config.json"
    if config is not None or not path.is_file():
        return resolve_config(open_checkpoint(named), config, None)
    content = read_json(path)
    if "model" in content and (ours := read_model_json(path)) is not None:
        return ours
    dtype = content.get("dtype", content.get("torch_dtype"))
    return huggingface_json.config_from_json(path, "bfloat16" if dtype == "bfloat16" else "float32")


def _open_base(path: Path, base: str) -> OpenCheckpoint:
    elsewhere = f"say where it is: `griffin merge BASE {shlex.quote(str(path))} OUT`"
    if read_name(base) is None and not Path(base).exists():
        raise UserError(f"{path}: the base of its adapters, {base!r}, is not here; {elsewhere}")
    try:
        return open_checkpoint(base)
    except UserError as error:
        if read_name(base) is None:
            raise
        raise UserError(f"{path}: the base of its adapters: {error}; or {elsewhere}") from error


def _refuse_anothers(
    checkpoint: OpenCheckpoint, folder: Path, tokenizer: Tokenizer, vocab_size: int
) -> None:
    names = sorted(file.name for file in folder.glob("*.pt"))
    if len(names) > 1:
        raise UserError(
            f"{checkpoint.path}: {folder} holds one tokenizer, of {tokenizer.vocab_size} ids, and "
            f"several models ({', '.join(names)}); this one has {vocab_size} embeddings: put it in "
            f"a directory of its own, with its tokenizer"
        )


def _is_torch_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())


def _open_directory(path: Path) -> OpenCheckpoint:
    is_hyper = (path / hyper_adapters.CONFIG).is_file()
    ours = store.open_checkpoint(path) if store.is_ours(path) and not is_hyper else None
    if ours is not None and not adapters.are_adapters(ours):
        return ours
    if is_hyper or ours is not None or (path / adapters.CONFIG).is_file():
        pairs, config = open_adapters(path)
        return adapters.merged(_open_base(path, pairs.base), pairs, config)
    if orbax_tree.is_tree(path):
        return deepmind_flax.open_checkpoint(path)
    if any(path.glob("*.safetensors")) or (path / huggingface.INDEX).is_file():
        return huggingface.open_checkpoint(path)
    if any(path.glob("*.pt")):
        return deepmind_torch.open_checkpoint(path)
    inside = [child for child in sorted(path.iterdir()) if orbax_tree.is_tree(child)]
    if len(inside) == 1:  # as Kaggle packs it: the tree in a folder, the tokenizer beside it
        return deepmind_flax.open_checkpoint(inside[0])
    names = sorted(child.name for child in path.iterdir())[:8]
    raise UserError(f"{path}: holds no checkpoint ({', '.join(names) or 'empty'}); {EXPECTED}")
