# SPDX-License-Identifier: Apache-2.0
"""Our own checkpoints: Orbax, parameters by canonical name, one config.json to rebuild the model.

    runs/NAME/config.json              {"model": GriffinConfig, "train": {...}}
    runs/NAME/checkpoints/STEP/        see step.py; one of these is a checkpoint wherever it lies
    DIR/config.json, DIR/params/       a bare checkpoint: what `griffin convert --to griffin` writes

Parameters are stored per layer, so a model that scans its layers and one that does not share them.
A step appears whole or not at all: Orbax writes under another name and renames. Who trains a run
holds a Checkpoints (writer.py); the functions here change nothing of what is there.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import checksums, files, orbax_tree
from checkpoints import step as step_files
from checkpoints.model_json import read_json, read_model_json, write_model_json
from checkpoints.open_checkpoint import Damaged, OpenCheckpoint
from checkpoints.shapes import MAY_DIFFER
from checkpoints.step import PARAMS
from checkpoints.writer import RUN_CONFIG as CONFIG
from checkpoints.writer import STEPS
from checkpoints.writer import Checkpoints as Checkpoints
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError


def write_run_config(run_dir: str | Path, config: GriffinConfig, train: dict[str, Any]) -> None:
    """Start a run directory: its config.json."""
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    write_model_json(Path(run_dir) / CONFIG, config, train)


def read_run_config(run_dir: str | Path) -> tuple[GriffinConfig, dict[str, Any]]:
    """The model's config and the training options of a run.

    Raises:
      ValueError: there is no config.json, or it is not one of ours.
    """
    path = Path(run_dir) / CONFIG
    config = read_model_json(path)
    if config is None:
        raise UserError(f"{path}: missing; expected the config.json of a run or checkpoint")
    train = read_json(path).get("train", {})
    if not isinstance(train, dict):
        raise UserError(
            f"{path} is damaged: expected the options of a run under 'train', got {train!r}; copy "
            "the file again"
        )
    return config, train


def all_steps(run_dir: str | Path) -> list[int]:
    """The steps of a run that look whole without reading their arrays, oldest first."""
    return [step for step in _folders(run_dir) if _looks_whole(Path(run_dir) / STEPS / str(step))]


def latest_step(run_dir: str | Path) -> int | None:
    """The newest of all_steps; None if there is none."""
    return max(all_steps(run_dir), default=None)


def is_ours(path: Path) -> bool:
    """Whether a directory is a run, one of its steps wherever it lies, or a bare checkpoint."""
    if files.is_dir(path / STEPS):
        return True
    if files.is_dir(path / PARAMS) and files.is_dir(path / step_files.CONFIG):
        return True
    config = _home(path) / CONFIG
    return files.is_file(config) and not orbax_tree.is_tree(path) and "model" in read_json(config)


def newest_whole(run_dir: Path) -> Path | None:
    """The folder of the newest step that looks whole; says on stderr which newer ones are
    damaged."""
    for step in reversed(_folders(run_dir)):
        folder = run_dir / STEPS / str(step)
        try:
            step_files.check(folder)
        except Damaged as error:
            print(f"step {step} is damaged, the one before it is used ({error})", file=sys.stderr)
        else:
            return folder
    return None


def open_checkpoint(path: Path) -> OpenCheckpoint:
    """A run (its newest step that looks whole), one step of a run, or a bare checkpoint.

    Raises:
      Damaged: the step is not what was written.
      OSError: something cannot be opened or read.
      UserError: config.json or the parameters are missing, or a step says it is another model
        than its run.
    """
    folder = path
    if files.is_dir(path / STEPS):
        newest = newest_whole(path)
        if newest is None:
            raise UserError(f"{path / STEPS}: holds no finished checkpoint yet")
        folder = newest
    elif not files.is_dir(path / PARAMS):
        raise UserError(f"{path}: holds a config.json, but neither {STEPS}/ nor {PARAMS}/")
    sums = step_files.read_checksums(folder)
    tensors = orbax_tree.stored_tensors(folder / PARAMS)

    def read(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        return orbax_tree.read_arrays(folder / PARAMS, tensors, dtype, sums and sums.arrays[PARAMS])

    config = _config(path, folder)
    return OpenCheckpoint(path, "griffin", tensors, read, config, folders=(_home(path),))


def write(path: Path, params: dict[str, Any], config: GriffinConfig) -> None:
    """Write a bare checkpoint into the directory `path`, which must not exist; empties `params`."""
    path.mkdir(parents=True)
    arrays = {name: np.asarray(params.pop(name)) for name in list(params)}
    sums = checksums.finish(checksums.start(arrays))
    orbax_tree.write_tree(path / PARAMS, arrays)
    (path / step_files.CHECKSUMS).mkdir()
    step_files.write_checksums(path / step_files.CHECKSUMS, {PARAMS: sums}, {})
    write_model_json(path / CONFIG, config)


def _config(path: Path, folder: Path) -> GriffinConfig:
    """The model's config: a step's own; of older steps, and beside bare parameters, config.json."""
    if step_files.read_content(folder, step_files.CONFIG) is None:
        return read_run_config(_home(path))[0]
    own = read_model_json(folder / step_files.CONFIG / step_files.CONTENT)
    assert own is not None
    run = read_model_json(path / CONFIG)
    for field in dataclasses.fields(GriffinConfig) if run else ():
        stated, kept = getattr(run, field.name), getattr(own, field.name)
        if stated != kept and field.name not in MAY_DIFFER:
            raise UserError(
                f"{path / CONFIG}: {field.name}={stated!r}, and step {folder.name} was trained "
                f"with {kept!r}; correct it, or load {folder}"
            )
    return own


def _home(path: Path) -> Path:
    """Where config.json and the tokenizer of a run, a step or a bare checkpoint lie."""
    return path.parent.parent if path.parent.name == STEPS else path


def _folders(run_dir: str | Path) -> list[int]:
    folder = Path(run_dir) / STEPS
    if not files.is_dir(folder):
        return []
    steps = (d for d in folder.iterdir() if d.name.isdigit() and files.is_dir(d))
    return sorted(int(d.name) for d in steps)


def _looks_whole(folder: Path) -> bool:
    try:
        step_files.check(folder)
    except Damaged:
        return False
    return True
