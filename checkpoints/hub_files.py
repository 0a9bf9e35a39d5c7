# SPDX-License-Identifier: Apache-2.0
"""Which files of a repository on a hub are read here; the rest is not downloaded.

A repository often holds a model more than once: safetensors beside PyTorch's pickles, GGUF files,
the steps of a training run. What load.py would open is chosen, in its order, from the list of
files and from the small ones, which are there first.
"""

from collections.abc import Collection
from pathlib import Path

from checkpoints import adapters, huggingface, orbax_tree
from checkpoints.huggingface_json import config_from_json
from checkpoints.model_json import read_json
from checkpoints.step import CHECKSUMS, PARAMS
from checkpoints.writer import RUN_CONFIG, STEPS
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import FILES
from recurrentgemma.text.tokenizer_files import BESIDE

SMALL = (RUN_CONFIG, adapters.CONFIG, huggingface.INDEX, *FILES, *BESIDE)
"""What says which model it is, and its tokenizer."""
OTHERS = {  # what holds weights that are not read -> what to do
    ".gguf": "of GGUF there is no way back to full weights: take the repository it was made from",
    ".bin": "load it where you trust it, with transformers, and save_pretrained writes safetensors",
    ".h5": "take a repository with safetensors",
    ".msgpack": "take a repository with safetensors",
}


def weights(files: Collection[str], folder: Path, name: str) -> list[str]:
    """The files that hold the weights, by their paths in the repository; a whole folder as `X/`.

    folder: where the small ones lie. name: what the messages call the repository.

    Raises:
      UserError: there are none that are read here, or it is another kind of model.
    """
    config = folder / RUN_CONFIG
    trees = {f.rpartition("/")[0] for f in files if f.rpartition("/")[2] in orbax_tree.MARKS}
    if config.is_file() and "model" in read_json(config) and "" not in trees:
        return _ours(files, name)
    if adapters.CONFIG in files:
        return [adapters.WEIGHTS]
    if (folder / huggingface.INDEX).is_file() or any(_is_root(f, ".safetensors") for f in files):
        _require_recurrentgemma(config, name)
        return _safetensors(files, folder)
    shallow = sorted(tree for tree in trees if "/" not in tree)
    if len(shallow) == 1:
        return [f"{shallow[0]}/" if shallow[0] else "*"]
    torch = [f for f in files if _is_root(f, ".pt")]
    if len(torch) == 1:
        return [torch[0], torch[0].removesuffix(".pt") + ".json"]
    top = sorted(f for f in files if "/" not in f and not f.startswith("."))
    remedy = next((r for end, r in OTHERS.items() for f in files if f.endswith(end)), "")
    raise UserError(
        f"{name}: holds no weights that are read here ({', '.join(top[:8]) or 'empty'}); "
        f"expected safetensors, adapters of PEFT's, a checkpoint of griffin's or one of DeepMind's"
        + (f"; {remedy}" if remedy else "")
    )


def _ours(files: Collection[str], name: str) -> list[str]:
    steps = {int(f.split("/")[1]) for f in files if f.startswith(f"{STEPS}/") and _step(f)}
    if steps:
        return [f"{STEPS}/{max(steps)}/"]
    if any(f.startswith(f"{PARAMS}/") for f in files):
        return [f"{PARAMS}/", f"{CHECKSUMS}/"]
    raise UserError(f"{name}: holds a config.json of griffin's, but neither {STEPS}/ nor {PARAMS}/")


def _step(file: str) -> bool:
    parts = file.split("/")
    return len(parts) > 2 and parts[1].isdigit()


def _safetensors(files: Collection[str], folder: Path) -> list[str]:
    """As huggingface.py chooses them; what is missing is reported there."""
    if (folder / huggingface.INDEX).is_file():
        return sorted(set(read_json(folder / huggingface.INDEX).get("weight_map", {}).values()))
    if huggingface.WEIGHTS in files:
        return [huggingface.WEIGHTS]
    return sorted(f for f in files if _is_root(f, ".safetensors"))


def _require_recurrentgemma(config: Path, name: str) -> None:
    """Before gigabytes are downloaded in vain."""
    if not config.is_file():
        return
    try:
        config_from_json(config, "float32")
    except UserError as error:
        problem = str(error).removeprefix(f"{config}: ")
        raise UserError(f"{name}: not a RecurrentGemma: {problem}") from None


def _is_root(file: str, suffix: str) -> bool:
    return "/" not in file and file.endswith(suffix)
