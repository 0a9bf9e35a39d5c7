# SPDX-License-Identifier: Apache-2.0
"""Names of models on a hub, in the config of a run: each at one commit, for as long as the run goes
on.

What a name means today, it may not mean tomorrow. So config.json holds NAME@COMMIT, and a run that
is there goes on from its own commit, whatever the hub has by then, and without asking it.
"""

import dataclasses
from pathlib import Path

from checkpoints import hub, processes, store
from checkpoints.hub_names import read_name
from training.configs import TrainConfig

FIELDS = ("init_from", "tokenizer")


def pin(config: TrainConfig, run_dir: Path) -> TrainConfig:
    """The config with a commit in each name. Raises UserError as `pinned`."""
    names = {field: pinned(getattr(config, field), run_dir, field) for field in FIELDS}
    return dataclasses.replace(config, **names)


def pinned(named: str, run_dir: Path, field: str) -> str:
    """A name at the commit that the run's config.json holds, or the hub's newest where there is no
    run yet; what is no name stays as it is. All processes call it alike, and get the same.

    Raises UserError: the hub has no such model, or cannot be asked.
    """

    def text() -> str:
        name = read_name(named)
        if name is None or name.is_exact:
            return str(named)
        saved = None
        if (run_dir / store.CONFIG).is_file():
            saved = read_name(store.read_run_config(run_dir)[1].get(field) or "")
        if saved is not None and saved.is_exact and saved.same_model(name):
            return str(saved)
        return hub.pinned(named)

    return processes.broadcast_text(text)
