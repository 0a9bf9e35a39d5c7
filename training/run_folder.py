# SPDX-License-Identifier: Apache-2.0
"""A run on disk, whatever it trains: its config, its lock, and any pytree of arrays in checkpoints
of which the newest and the best are kept.

    runs/NAME/config.json          what the run computes, as plain values
    runs/NAME/metrics.jsonl        see observe/metrics.py
    runs/NAME/checkpoints/STEP/    see checkpoints/store.py
    runs/NAME/.lock                held while a program trains it

Pretraining adds what a language model has besides (run.py). A recipe goes like this:

    step = open_run(run_dir, config)                    # a dictionary; 0 where there is no run yet
    begin_run(run_dir, config)
    with locked(run_dir), open_checkpoints(run_dir, keep=2, best="score") as checkpoints:
        saved = restore(checkpoints, like=tree)         # the newest, None before the first
        ...
        save(checkpoints, step, tree, numbers={"seed": 3}, metrics={"score": 0.5})
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from checkpoints import files, processes, store
from checkpoints.files import new_file
from checkpoints.model_json import read_json
from recurrentgemma.errors import UserError

CONFIG, METRICS = store.CONFIG, "metrics.jsonl"


def open_run(
    run_dir: Path,
    config: Mapping[str, Any],
    *,
    may_change: Collection[str] = (),
    read: Callable[[Path], Mapping[str, Any]] = read_json,
    unnamed: str = "",
    go_on: str = "",
    prepare: Callable[[], None] = lambda: None,
    report: Callable[[str], None] = print,
) -> int:
    """Check that the run that is there has this config, up to the fields that may change: a change
    is reported and written down. Returns its newest step, 0 if there is none or no run yet.

    read: brings the config.json of an older version to today's fields. unnamed: the section whose
    fields are named, here and in messages, without it. go_on: a command that goes on with what was
    saved, for the message. prepare: called, by one process, before a change is written down; it may
    refuse it by a UserError.

    Raises UserError: the directory holds something else, or a run whose config differs; it says
    where.
    """

    def opened() -> str:
        return str(_open_run(run_dir, config, may_change, read, unnamed, go_on, prepare, report))

    return int(processes.broadcast_text(opened))


def _open_run(
    run_dir: Path,
    config: Mapping[str, Any],
    may_change: Collection[str],
    read: Callable[[Path], Mapping[str, Any]],
    unnamed: str,
    go_on: str,
    prepare: Callable[[], None],
    report: Callable[[str], None],
) -> int:
    path = run_dir / CONFIG
    if not path.exists():
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise UserError(f"{run_dir} exists and is not a run; choose another --run-dir")
        return 0
    changes = {
        name.removeprefix(f"{unnamed}."): change
        for name, change in differences(read(path), config).items()
    }
    if refused := [
        f"{name}: {change}" for name, change in changes.items() if name not in may_change
    ]:
        raise UserError(
            f"{run_dir} holds a run with another config (saved -> asked): {'; '.join(refused)}. "
            f"Ask for the saved values to go on with it{go_on and f' (`{go_on}` does)'}, or choose "
            f"another --run-dir. If files were moved, correct their paths in {path}"
        )
    if changes:
        prepare()
    step = store.latest_step(run_dir) or 0
    if changes:
        shown = "; ".join(f"{name}: {change}" for name, change in changes.items())
        report(f"{run_dir} goes on after step {step} with changed {shown}")
    if read_json(path) != config:  # a change, or what an older version called otherwise
        write_config(run_dir, config)
    return step


def differences(
    saved: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> dict[str, str]:
    """What differs between two configs of plain values: `saved -> asked` by field."""
    changes = {}
    for name in sorted(saved.keys() | asked.keys()):
        old, new = saved.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes |= differences(old, new, f"{prefix}{name}.")
        elif old != new:
            changes[f"{prefix}{name}"] = f"{old!r} -> {new!r}"
    return changes


def begin_run(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Write config.json, which makes a directory a run, if it is not there."""

    def write() -> None:
        if processes.is_first() and not (run_dir / CONFIG).exists():
            write_config(run_dir, config)

    processes.all_or_none(write)


def write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Write config.json, whole or not at all."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with new_file(run_dir / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """A run is trained by one program at a time. Raises UserError: another one trains it."""
    with contextlib.ExitStack() as stack:
        processes.all_or_none(
            lambda: stack.enter_context(files.locked(run_dir)) if processes.is_first() else None
        )
        yield


def open_checkpoints(
    run_dir: Path,
    *,
    keep: int,
    best: str | None = None,
    best_is: Literal["lowest", "highest"] = "lowest",
    always: Collection[int] = (),
    report: Callable[[str], None] = print,
) -> store.Checkpoints:
    """The run's checkpoints to write to: the `keep` newest are kept, the best by the metric of that
    name, and the steps in `always`."""
    return store.Checkpoints(
        run_dir, keep=keep, best=best, best_is=best_is, always=always, report=report
    )


class Saved(NamedTuple):
    """A checkpoint as `save` was given it."""

    step: int
    tree: Any
    numbers: dict[str, Any]


def save(
    checkpoints: store.Checkpoints,
    step: int,
    tree: Any,
    *,
    numbers: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Begin to write any pytree of arrays, which may be donated when this returns; numbers: plain
    values beside it. Raises OSError: no space, or the checkpoint before was not written."""
    checkpoints.save(step, _by_path(tree), data_state=dict(numbers or {}), metrics=metrics)


def restore(checkpoints: store.Checkpoints, like: Any, *, step: int | None = None) -> Saved | None:
    """The checkpoint of a step, by default the newest that is whole; None before the first.

    Its tree is structured like `like`, whose leaves are arrays or jax.ShapeDtypeStructs and say
    where the arrays are to lie. Raises UserError: it holds another tree.
    """
    restored = checkpoints.restore(step, params_like=_by_path(like))
    if restored is None:
        return None
    leaves = [restored.params[name] for name in _by_path(like)]
    tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return Saved(restored.step, tree, restored.data_state or {})


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
