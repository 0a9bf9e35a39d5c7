# SPDX-License-Identifier: Apache-2.0
"""The folder on this machine for what a user calls a model: a path, or a name on a hub.

What a name stands for is downloaded once, by the hub's own library: its cache, its token, its
environment variables. Of a repository only what is read here is taken (hub_files.py). hub_names.py
tells names from paths.
"""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from checkpoints import hub_errors
from checkpoints.hub_names import Name, read_name
from griffin_lm import __version__
from recurrentgemma.errors import MissingExtra, UserError

Part = Literal["all", "small"]


def local_path(named: str | Path, part: Part = "all") -> Path:
    """A path as it is, whether there is anything or not; of a name the folder in the hub's cache,
    which is downloaded if it is not there.

    part: "small" leaves the weights out, of Hugging Face's hub: configs and tokenizer.

    Raises:
      UserError: the name is none, or nobody's, or not readable for this user; there is no network;
        the repository holds no weights that are read here; the disk is full.
      MissingExtra: it is on Kaggle, and kagglehub is not installed.
    """
    name = read_name(named)
    if name is None:
        return Path(named)
    if name.hub == "kaggle":
        return _kaggle(name)
    return _huggingface(name, part)


def pinned(named: str) -> str:
    """A name at the commit, or the version, that it has now; a path as it is. Raises as
    local_path."""
    name = read_name(named)
    if name is None or name.is_exact:
        return named if name is None else str(name)
    if name.hub == "kaggle":  # only its download tells the version
        return str(Name("kaggle", name.repository, _kaggle(name).name))
    with hub_errors.of_huggingface(name):
        return str(Name("huggingface", name.repository, _commit(name)))


def _huggingface(name: Name, part: Part) -> Path:
    import huggingface_hub  # here, as few need it; and JAX, which hub_files imports, takes a second
    from huggingface_hub import constants, errors

    from checkpoints import hub_files

    def fetch(patterns: list[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name.repository,
                revision=commit,
                allow_patterns=patterns,
                library_name="griffin-lm",
                library_version=__version__,
                tqdm_class=_progress(quiet=patterns == small),
            )
        )

    small: list[str] = list(hub_files.SMALL)
    with hub_errors.of_huggingface(name):
        commit = _commit(name)
        folder = fetch(small)
        if part == "small":
            return folder
        try:
            tree = huggingface_hub.get_cached_repo_tree(name.repository, revision=commit)
            sizes = {file.path: file.size for file in tree}
        except errors.CachedRepoTreeNotFoundError:  # offline, and another program downloaded it
            sizes = {
                file.relative_to(folder).as_posix(): 0
                for file in folder.rglob("*")
                if file.is_file()
            }
        patterns = hub_files.weights(sizes, folder, str(name))
        missing = sum(
            size
            for file, size in sizes.items()
            if any(_matches(file, pattern) for pattern in patterns) and not (folder / file).exists()
        )
        _require_space(name, missing, Path(constants.HF_HUB_CACHE))
        if missing and sys.stderr.isatty():
            print(f"{name}: {missing / 1e9:.2f} GB into {constants.HF_HUB_CACHE}", file=sys.stderr)
        return fetch(patterns)


def _commit(name: Name) -> str:
    if name.is_exact:
        return name.revision
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import logging

    logging.disable_propagation()  # or what it warns of is said twice
    api = HfApi(library_name="griffin-lm", library_version=__version__)
    return api.resolve_revision(
        name.repository,
        revision=name.revision or None,
        local_files_only=constants.is_offline_mode(),
    ).resolved


def _matches(file: str, pattern: str) -> bool:
    return file.startswith(pattern) if pattern.endswith("/") else pattern in (file, "*")


def _require_space(name: Name, needed: int, cache: Path) -> None:
    home = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(home).free
    if needed > free:
        raise UserError(
            f"{name}: {needed / 1e9:.2f} GB to download, and {free / 1e9:.2f} GB are free on the "
            f"disk of {cache}: free some of it, or set HF_HOME to a folder of another disk"
        )


def _progress(*, quiet: bool) -> type[Any]:
    """Hugging Face's bars, on a terminal alone."""
    from huggingface_hub.utils import tqdm

    if not quiet and sys.stderr.isatty():
        return tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent


def _kaggle(name: Name) -> Path:
    try:
        kagglehub = importlib.import_module("kagglehub")
    except ImportError as error:
        raise MissingExtra(
            f"{name}: Kaggle's models need kagglehub, which is not installed: run "
            "`pip install 'griffin-lm[kaggle]'`, or take the model from Hugging Face's hub"
        ) from error
    with hub_errors.of_kaggle(name):
        return Path(kagglehub.model_download(str(name).removeprefix("kaggle:")))
