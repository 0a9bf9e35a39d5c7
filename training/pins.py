# SPDX-License-Identifier: Apache-2.0
"""Names of models on a hub, in the config of a run: each at one commit, for as long as the run goes
on.

What a name means today, it may not mean tomorrow. So config.json holds NAME@COMMIT, and a run that
is there goes on from its own commit, whatever the hub has by then, and without asking it. Beside it
stands the branch or the tag that was asked for, so that the same command goes on when the branch
has moved, and another one is refused.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from checkpoints import hub, processes, store
from checkpoints.hub_names import Name, read_name
from recurrentgemma.errors import UserError
from training.configs import TrainConfig

FIELDS = ("init_from", "tokenizer")


def pin(config: TrainConfig, run_dir: Path) -> TrainConfig:
    """The config with a commit in each name, and a step of the run whose parameters are read again
    (`--retain`). Raises UserError as `pinned`."""
    given = [getattr(config, field) for field in FIELDS]
    names = {field: pinned(name, run_dir, field) for field, name in zip(FIELDS, given, strict=True)}
    if config.retain.holds:
        names["init_from"] = at_step(names["init_from"])
    kept = config.branches or branches(given, run_dir)
    return dataclasses.replace(config, **names, branches=kept)


def pinned(named: str, run_dir: Path, field: str) -> str:
    """A name at the commit that the run's config.json holds, or the hub's newest where there is no
    run yet; what is no name stays as it is. All processes call it alike, and get the same.

    Raises UserError: the hub has no such model, or cannot be asked; or the name has another
    revision than the run's, which is another commit.
    """

    def text() -> str:
        name = read_name(named)
        if name is None or name.is_exact:
            return str(named)
        fields = _saved_fields(run_dir)
        saved = read_name(fields.get(field) or "")
        if saved is None or not saved.is_exact or not saved.same_model(name):
            return hub.pinned(named)
        if name.revision and str(name) not in fields.get("branches", ()):
            now = hub.pinned(named)
            if now != str(saved):
                raise UserError(
                    f"{field}: {run_dir} goes on from {saved}, and {name} is {now}; leave the "
                    f"revision out to go on from its own, or choose another --run-dir"
                )
        return str(saved)

    return processes.broadcast_text(text)


def branches(given: Sequence[str], run_dir: Path) -> tuple[str, ...]:
    """TrainConfig.branches: those of the run that is there, else those among the names that were
    given. All processes call it alike."""

    def text() -> str:
        if (run_dir / store.CONFIG).is_file():
            return json.dumps(_saved_fields(run_dir).get("branches", ()))
        names = [name for name in map(read_name, given) if name is not None]
        return json.dumps(sorted({str(name) for name in names if _may_move(name)}))

    return tuple(json.loads(processes.broadcast_text(text)))


def _may_move(name: Name) -> bool:
    return bool(name.revision) and not name.is_exact


def _saved_fields(run_dir: Path) -> dict:
    """What the config.json of a run here says of its training; {} where there is none."""
    if not (run_dir / store.CONFIG).is_file():
        return {}
    return store.read_run_config(run_dir)[1]


def at_step(init_from: str) -> str:
    """Of a run its newest step, which stays what it is when the run goes on: for what reads it
    again whenever it goes on itself."""
    path = Path(init_from)
    if init_from and read_name(init_from) is None and (path / store.STEPS).is_dir():
        return str(store.newest_whole(path) or path)
    return init_from
