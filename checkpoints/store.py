# SPDX-License-Identifier: Apache-2.0
"""Our own checkpoints: Orbax, parameters by canonical name, one config.json to rebuild the model.

    runs/NAME/config.json              {"model": GriffinConfig, "train": {...}}
    runs/NAME/checkpoints/STEP/        params/, and with them opt_state/ and data_state/
    DIR/config.json, DIR/params/       a bare checkpoint: what `griffin convert --to griffin` writes

Parameters are stored per layer, so a model that scans its layers and one that does not share them.
A step appears whole or not at all: Orbax writes under another name and renames.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from checkpoints import orbax_tree
from checkpoints.model_json import read_json, read_model_json, write_model_json
from checkpoints.source import Source
from recurrentgemma.config import GriffinConfig

CONFIG, STEPS, PARAMS = "config.json", "checkpoints", "params"


class Restored(NamedTuple):
    """What one step held; opt_state and data_state are None where it held none."""

    step: int
    params: dict[str, jax.Array]
    opt_state: Any
    data_state: dict[str, Any] | None


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
        raise ValueError(f"{path}: missing; expected the config.json of a run or checkpoint")
    return config, read_json(path).get("train", {})


def save(
    run_dir: str | Path,
    step: int,
    params: Mapping[str, Any],
    *,
    opt_state: Any = None,
    data_state: dict[str, Any] | None = None,
    keep: int = 3,
) -> None:
    """Write one step of a run, then delete all but the newest `keep`. Atomic: returns when it is on
    disk.

    params is flat, by canonical name; opt_state any pytree of arrays; data_state plain JSON values.

    Raises:
      ValueError: this step exists already, or keep is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: expected at least 1")
    if step in all_steps(run_dir):
        raise ValueError(f"{Path(run_dir) / STEPS / str(step)}: this step exists already")
    items: dict[str, Any] = {PARAMS: ocp.args.PyTreeSave(orbax_tree.nest(params))}
    if opt_state is not None:
        items["opt_state"] = ocp.args.PyTreeSave(opt_state)
    if data_state is not None:
        items["data_state"] = ocp.args.JsonSave(data_state)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.LatestN(keep), enable_async_checkpointing=False
    )
    with ocp.CheckpointManager((Path(run_dir) / STEPS).absolute(), options=options) as manager:
        manager.save(step, args=ocp.args.Composite(**items), force=True)


def all_steps(run_dir: str | Path) -> list[int]:
    """The steps of a run that were written to the end, oldest first."""
    folder = Path(run_dir) / STEPS
    if not folder.is_dir():
        return []
    return sorted(int(d.name) for d in folder.iterdir() if d.name.isdigit() and _complete(d))


def latest_step(run_dir: str | Path) -> int | None:
    """The newest step of a run that was written to the end; None before the first."""
    return max(all_steps(run_dir), default=None)


def restore(
    run_dir: str | Path,
    step: int | None = None,
    *,
    params_like: Mapping[str, Any] | None = None,
    opt_state_like: Any = None,
) -> Restored:
    """Read one step of a run (default: the newest).

    The two `like` trees hold arrays or jax.ShapeDtypeStructs with the structure, dtypes and (where
    they have one) shardings wanted. Without params_like, parameters come as stored, on the default
    device; without opt_state_like, the optimizer's state is not read.

    Raises:
      ValueError: there is no such step, it is damaged, or it differs from a `like` tree.
    """
    chosen = latest_step(run_dir) if step is None else step
    steps = all_steps(run_dir)
    if chosen is None or chosen not in steps:
        raise ValueError(f"{Path(run_dir) / STEPS}: no step {chosen}; it holds {steps}")
    folder = Path(run_dir) / STEPS / str(chosen)
    if params_like is None:
        specs = orbax_tree.read_specs(folder / PARAMS)
        params_like = {
            name: jax.ShapeDtypeStruct(spec.shape, np.dtype(spec.dtype))
            for name, spec in specs.items()
        }
    params = orbax_tree.flatten(orbax_tree.read_like(folder / PARAMS, orbax_tree.nest(params_like)))
    opt_state = data_state = None
    if opt_state_like is not None:
        if not (folder / "opt_state").is_dir():
            raise ValueError(f"{folder}: holds no optimizer state, training cannot go on from it")
        opt_state = orbax_tree.read_like(folder / "opt_state", opt_state_like)
    if (folder / "data_state").is_dir():
        data_state = read_json(folder / "data_state" / "metadata")
    return Restored(chosen, params, opt_state, data_state)


def is_ours(path: Path) -> bool:
    """Whether a directory is a run, one of its steps, or a bare checkpoint."""
    if (path / STEPS).is_dir():
        return True
    config = _home(path) / CONFIG
    return config.is_file() and not orbax_tree.is_tree(path) and "model" in read_json(config)


def open_source(path: Path) -> Source:
    """A run (its newest step), one step of a run, or a bare checkpoint.

    Raises:
      ValueError: config.json or the parameters are missing or damaged.
    """
    folder = path
    if (path / STEPS).is_dir():
        step = latest_step(path)
        if step is None:
            raise ValueError(f"{path / STEPS}: holds no finished checkpoint yet")
        folder = path / STEPS / str(step)
    elif not (path / PARAMS).is_dir():
        raise ValueError(f"{path}: holds a config.json, but neither {STEPS}/ nor {PARAMS}/")
    config, _ = read_run_config(_home(path))
    specs = orbax_tree.read_specs(folder / PARAMS)

    def read(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        return orbax_tree.read_arrays(folder / PARAMS, specs, dtype)

    return Source(path, "griffin", specs, read, config, folders=(_home(path),))


def write(path: Path, params: dict[str, Any], config: GriffinConfig) -> None:
    """Write a bare checkpoint into the directory `path`, which must not exist; empties `params`."""
    path.mkdir(parents=True)
    arrays = {name: np.asarray(params.pop(name)) for name in list(params)}
    orbax_tree.write_tree(path / PARAMS, arrays)
    write_model_json(path / CONFIG, config)


def _home(path: Path) -> Path:
    """Where config.json and the tokenizer of a run, a step or a bare checkpoint lie."""
    return path.parent.parent if path.parent.name == STEPS else path


def _complete(step_folder: Path) -> bool:
    return orbax_tree.is_tree(step_folder / PARAMS)
